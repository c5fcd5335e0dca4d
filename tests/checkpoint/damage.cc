// Systematic damage to safetensors files, indices, configurations and folders.
#include "checkpoint/damage.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace moe4::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// A safetensors file taken apart.
struct RawFile {
  Json header;
  std::string data;

  static RawFile load(const fs::path& path) {
    const std::string bytes = read_file(path);
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    return {Json::parse(bytes.substr(8, length)), bytes.substr(8 + length)};
  }

  static void save(const fs::path& path, const std::string& header, const std::string& data) {
    const uint64_t length = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    write_file(path, bytes + header + data);
  }
  void save(const fs::path& path) const { save(path, header.dump(), data); }

  // The bytes of a tensor.
  char* bytes_of(const std::string& tensor) {
    return data.data() + header.at(tensor).at("data_offsets")[0].get<size_t>();
  }
  size_t size_of(const std::string& tensor) const {
    const Json& offsets = header.at(tensor).at("data_offsets");
    return offsets[1].get<size_t>() - offsets[0].get<size_t>();
  }

  // Takes a tensor out and closes the gap.
  void erase(const std::string& tensor) {
    const size_t begin = header.at(tensor).at("data_offsets")[0].get<size_t>();
    const size_t bytes = size_of(tensor);
    data.erase(begin, bytes);
    header.erase(tensor);
    for (auto& [name, info] : header.items()) {
      if (name == "__metadata__" || info["data_offsets"][0].get<size_t>() < begin) continue;
      for (auto& offset : info["data_offsets"]) offset = offset.get<size_t>() - bytes;
    }
  }

  void append(const std::string& tensor, const std::string& dtype, const Json& shape,
              const std::string& bytes) {
    header[tensor] = {{"dtype", dtype},
                      {"shape", shape},
                      {"data_offsets", {data.size(), data.size() + bytes.size()}}};
    data += bytes;
  }
};

class Generator {
 public:
  Generator(fs::path checkpoints, fs::path out,
            std::function<void(const Damage&, const fs::path&)> visit)
      : checkpoints_(std::move(checkpoints)), out_(std::move(out)), visit_(std::move(visit)) {}

  void run() {
    whole_files();
    header_text();
    tensor_entries();
    tensor_data();
    missing_tensors();
    shards();
    config_values();
    config_sizes();
    quantisation_configs();
    folders();
  }

 private:
  // Copies checkpoint `base`, damages the copy, shows it.
  void make(const std::string& base, const Damage& damage,
            const std::function<void(const fs::path&)>& apply) {
    const fs::path folder = out_ / damage.name;
    if (fs::exists(folder)) throw std::runtime_error("two damages of one name: " + damage.name);
    fs::create_directories(folder);
    for (const auto& entry : fs::directory_iterator(checkpoints_ / base)) {
      if (entry.is_regular_file()) fs::copy(entry.path(), folder / entry.path().filename());
    }
    apply(folder);
    visit_(damage, folder);
  }

  void make_raw(const std::string& base, const std::string& name, const std::string& mention,
                const std::function<void(RawFile&)>& apply) {
    make(base, {name, "model.safetensors", mention}, [&](const fs::path& folder) {
      RawFile raw = RawFile::load(folder / "model.safetensors");
      apply(raw);
      raw.save(folder / "model.safetensors");
    });
  }

  void make_json(const std::string& base, const Damage& damage,
                 const std::function<void(Json&)>& apply) {
    make(base, damage, [&](const fs::path& folder) {
      Json json = Json::parse(read_file(folder / damage.file));
      apply(json);
      write_file(folder / damage.file, json.dump());
    });
  }

  void whole_files() {
    for (const char* base : {"qwen3-modelopt-nvfp4", "qwen3-modelopt-fp8"}) {
      const std::string bytes = read_file(checkpoints_ / base / "model.safetensors");
      uint64_t header = 0;
      std::memcpy(&header, bytes.data(), 8);
      const size_t data = bytes.size() - 8 - header;
      for (size_t at :
           {size_t{0}, size_t{1}, size_t{7}, size_t{8}, size_t{9}, 8 + header / 4, 8 + header / 2,
            8 + header - 1, 8 + header, 8 + header + 1, 8 + header + data / 4,
            8 + header + data / 2, bytes.size() - 2, bytes.size() - 1}) {
        make(base, {fmt::format("{}-truncated-at-{}", base, at), "model.safetensors", ""},
             [&](const fs::path& folder) {
               write_file(folder / "model.safetensors", bytes.substr(0, at));
             });
      }
      make(base, {fmt::format("{}-trailing-byte", base), "model.safetensors", ""},
           [&](const fs::path& folder) { write_file(folder / "model.safetensors", bytes + "x"); });
      for (uint64_t length :
           {uint64_t{0}, uint64_t{1}, header - 1, header + 1, header + 8, uint64_t{100'000'001},
            uint64_t{1} << 31, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7}) {
        make(base, {fmt::format("{}-header-length-{}", base, length), "model.safetensors", ""},
             [&](const fs::path& folder) {
               std::string damaged = bytes;
               std::memcpy(damaged.data(), &length, 8);
               write_file(folder / "model.safetensors", damaged);
             });
      }
    }
  }

  void header_text() {
    const std::string u8 = R"("dtype":"U8","shape":[1],"data_offsets":[0,1]})";
    const std::vector<std::pair<const char*, std::string>> headers = {
        {"empty", ""},
        {"no-tensors", "{}"},
        {"null", "null"},
        {"array", "[]"},
        {"open", "{"},
        {"text", "not json"},
        {"zero-bytes", std::string(64, '\0')},
        {"leading-space", " {}"},
        {"byte-order-mark", "\xef\xbb\xbf{}"},
        {"trailing-text", "{}x"},
        {"two-documents", "{}{}"},
        {"trailing-comma", "{\"a\":{" + u8 + ",}"},
        {"single-quotes", "{'a':{}}"},
        {"name-not-utf8", "{\"a\xff\":{" + u8 + "}"},
        {"name-lone-surrogate", "{\"\\ud800\":{" + u8 + "}"},
        {"name-control-byte", std::string("{\"a\x01\":{") + u8 + "}"},
        {"duplicate-tensor", "{\"a\":{" + u8 + ",\"a\":{" + u8 + "}"},
        {"duplicate-metadata", R"({"__metadata__":{},"__metadata__":{}})"},
        {"metadata-not-strings", R"({"__metadata__":{"a":1}})"},
        {"metadata-nested", R"({"__metadata__":{"a":{"b":"c"}}})"},
        {"metadata-array", R"({"__metadata__":["a"]})"},
        {"deep-arrays", "{\"a\":" + std::string(100000, '[')},
        {"deep-objects", [] {
           std::string text;
           for (int i = 0; i < 100000; ++i) text += "{\"a\":";
           return text;
         }()}};
    for (const auto& [name, header] : headers) {
      make("qwen3-modelopt-nvfp4", {fmt::format("header-{}", name), "model.safetensors", ""},
           [&bytes = header](const fs::path& folder) {
             RawFile::save(folder / "model.safetensors", bytes, "x");
           });
    }
  }

  void tensor_entries() {
    const std::string base = "qwen3-modelopt-nvfp4";
    const std::string expert = "model.layers.1.mlp.experts.2.";
    for (const std::string& tensor :
         {expert + "gate_proj.weight", expert + "up_proj.weight_scale",
          expert + "down_proj.weight_scale_2", expert + "up_proj.input_scale",
          std::string("model.embed_tokens.weight"),
          std::string("model.layers.0.self_attn.q_proj.weight")}) {
      const auto entry = [&](const std::string& what, const std::string& mention,
                             const std::function<void(Json&)>& apply) {
        make_raw(base, fmt::format("entry-{}-{}", tensor, what), mention,
                 [&](RawFile& raw) { apply(raw.header[tensor]); });
      };
      for (const char* key : {"dtype", "shape", "data_offsets"}) {
        entry(fmt::format("without-{}", key), tensor, [&](Json& info) { info.erase(key); });
        entry(fmt::format("null-{}", key), tensor, [&](Json& info) { info[key] = nullptr; });
        entry(fmt::format("number-{}", key), tensor, [&](Json& info) { info[key] = 4; });
        entry(fmt::format("object-{}", key), tensor,
              [&](Json& info) { info[key] = Json::object(); });
      }
      entry("unknown-key", tensor, [](Json& info) { info["strides"] = {1}; });
      entry("dtype-I64", tensor, [](Json& info) { info["dtype"] = "I64"; });
      entry("shape-negative", tensor, [](Json& info) { info["shape"] = {-1, 2}; });
      entry("shape-fraction", tensor, [](Json& info) { info["shape"] = {1.5}; });
      entry("shape-huge", tensor, [](Json& info) {
        info["shape"] = {uint64_t{1} << 40, uint64_t{1} << 40};
      });
      entry("shape-beyond-64-bits", tensor, [](Json& info) { info["shape"] = {~uint64_t{0}}; });
      entry("shape-nested", tensor, [](Json& info) { info["shape"] = Json::array({{1, 2}}); });
      entry("shape-too-many-dimensions", tensor,
            [](Json& info) { info["shape"] = std::vector<int>(1000, 1); });
      entry("shape-one-more", tensor, [](Json& info) { info["shape"].push_back(3); });
      entry("offsets-backwards", tensor,
            [](Json& info) { std::swap(info["data_offsets"][0], info["data_offsets"][1]); });
      entry("offsets-huge", tensor, [](Json& info) {
        info["data_offsets"] = {uint64_t{1} << 62, (uint64_t{1} << 62) + 4};
      });
      entry("offsets-end-short", tensor, [](Json& info) {
        info["data_offsets"][1] = info["data_offsets"][1].get<size_t>() - 1;
      });
      // The neighbours may be blamed as well: only the file is certain.
      entry("offsets-shifted", "", [](Json& info) {
        for (auto& offset : info["data_offsets"]) offset = offset.get<size_t>() + 1;
      });
      entry("offsets-to-start", "", [](Json& info) {
        const size_t bytes =
            info["data_offsets"][1].get<size_t>() - info["data_offsets"][0].get<size_t>();
        info["data_offsets"] = {0, bytes};
      });
    }
    // Entries that are consistent in themselves but not what the model needs.
    const auto change = [&](const std::string& tensor, const std::string& what, const Json& dtype,
                            const std::function<Json(const Json&)>& shape) {
      make_raw(base, fmt::format("unfit-{}-{}", tensor, what), tensor, [&](RawFile& raw) {
        Json& info = raw.header[tensor];
        if (!dtype.is_null()) info["dtype"] = dtype;
        info["shape"] = shape(info["shape"]);
      });
    };
    const auto same = [](const Json& shape) { return shape; };
    const auto transposed = [](const Json& shape) { return Json{shape[1], shape[0]}; };
    const auto flat = [](const Json& shape) {
      return Json{shape[0].get<int64_t>() * shape[1].get<int64_t>()};
    };
    const auto three = [](const Json& shape) { return Json{1, shape[0], shape[1]}; };
    for (const std::string which : {"gate_proj", "down_proj"}) {
      const std::string weight = expert + which + ".weight";
      const std::string scale = weight + "_scale";
      for (const char* dtype : {"I8", "BOOL", "F8_E5M2", "F8_E8M0", "Q9"}) {
        change(weight, dtype, dtype, same);
        change(scale, dtype, dtype, same);
      }
      change(scale, "U8", "U8", same);
      if (which == "down_proj") change(weight, "transposed", nullptr, transposed);  // not square
      change(weight, "flat", nullptr, flat);
      change(weight, "three-dimensions", nullptr, three);
      change(scale, "transposed", nullptr, transposed);
      change(scale, "flat", nullptr, flat);
      change(scale, "three-dimensions", nullptr, three);
      for (const char* dtype : {"I32", "U32", "Q9"}) {
        change(scale + "_2", dtype, dtype, same);
        change(expert + which + ".input_scale", dtype, dtype, same);
      }
    }
    change("model.layers.0.self_attn.q_proj.weight", "I16", "I16", same);
    change("model.embed_tokens.weight", "transposed", nullptr, transposed);
  }

  static void set_float(RawFile& raw, const std::string& tensor, float value, size_t at = 0) {
    std::memcpy(raw.bytes_of(tensor) + 4 * at, &value, 4);
  }

  void tensor_data() {
    constexpr float kNan = __builtin_nanf("");
    constexpr float kInf = __builtin_inff();
    for (const char* base : {"qwen3-modelopt-nvfp4", "qwen3_5-ct-nvfp4a16"}) {
      for (const std::string which : {"gate_proj", "down_proj"}) {
        const std::string scale = "model.layers.1.mlp.experts.5." + which + ".weight_scale";
        for (const auto& [what, byte] :
             {std::pair{"nan", 0x7f}, {"negative-nan", 0xff}, {"negative", 0x81}}) {
          for (const char* where : {"first", "middle", "last"}) {
            make_raw(base, fmt::format("{}-{}-{}-{}-scale", base, which, what, where), scale,
                     [&, value = byte](RawFile& raw) {
                       const size_t n = raw.size_of(scale);
                       const size_t at = where[0] == 'f' ? 0 : where[0] == 'm' ? n / 2 : n - 1;
                       raw.bytes_of(scale)[at] = static_cast<char>(value);
                     });
          }
        }
      }
    }
    const auto scalar = [&](const char* base, const std::string& suffix,
                            const std::vector<float>& values) {
      const std::string tensor = "model.layers.0.mlp.experts.3.up_proj." + suffix;
      for (float value : values) {
        make_raw(base, fmt::format("{}-{}-is-{}", base, suffix, value), tensor,
                 [&](RawFile& raw) { set_float(raw, tensor, value); });
      }
    };
    scalar("qwen3-modelopt-nvfp4", "weight_scale_2", {kNan, kInf, -kInf, -1e-4f, 0.0f});
    scalar("qwen3-modelopt-nvfp4", "input_scale", {kNan, kInf, -1e-4f});
    scalar("qwen3_5-ct-nvfp4a16", "weight_global_scale", {kNan, kInf, -kInf, -1e4f, 0.0f, 1e-45f});
    scalar("qwen3-modelopt-fp8", "weight_scale", {kNan, kInf, -1e-4f});
    scalar("qwen3-modelopt-fp8", "input_scale", {kNan, kInf, -1e-4f});
    for (float value : {kNan, kInf, -1.0f}) {
      const std::string tensor = "model.layers.0.mlp.experts.2.down_proj.weight_scale_inv";
      make_raw("qwen3-fp8-block128", fmt::format("block128-scale-is-{}", value), tensor,
               [&](RawFile& raw) { set_float(raw, tensor, value, 3); });
    }
    for (int bits : {0x7fc0, 0x7f80, 0xbf80}) {  // NaN, infinity, -1 in BF16
      const std::string tensor = "model.layers.0.mlp.experts.2.down_proj.weight_scale";
      make_raw("qwen3-ct-mixed", fmt::format("channel-scale-is-{:x}", bits), tensor,
               [&](RawFile& raw) {
                 const auto value = static_cast<uint16_t>(bits);
                 std::memcpy(raw.bytes_of(tensor) + raw.size_of(tensor) - 2, &value, 2);
               });
    }
  }

  void missing_tensors() {
    for (int expert : {0, 3, 5}) {
      for (const char* which : {"gate_proj", "up_proj", "down_proj"}) {
        for (const char* suffix : {"weight", "weight_scale", "weight_scale_2"}) {
          const std::string module = fmt::format("model.layers.1.mlp.experts.{}.{}", expert, which);
          make_raw("qwen3-modelopt-nvfp4", fmt::format("missing-{}-{}-{}", expert, which, suffix),
                   module, [&](RawFile& raw) { raw.erase(module + "." + suffix); });
        }
      }
    }
    const std::string packed = "model.layers.1.mlp.experts.4.up_proj.";
    for (const char* suffix : {"weight_packed", "weight_scale", "weight_global_scale"}) {
      make_raw("qwen3_5-ct-nvfp4a16", fmt::format("missing-ct-{}", suffix), packed,
               [&](RawFile& raw) { raw.erase(packed + suffix); });
    }
    make_raw("qwen3-modelopt-fp8", "missing-fp8-scale", "model.layers.1.mlp.experts.4.up_proj",
             [](RawFile& raw) { raw.erase("model.layers.1.mlp.experts.4.up_proj.weight_scale"); });
    make_raw("qwen3_5-fused-experts", "missing-fused-down", "model.layers.1.mlp.experts.down_proj",
             [](RawFile& raw) { raw.erase("model.layers.1.mlp.experts.down_proj"); });
    make_raw(
        "qwen3_5-fused-experts", "missing-fused-scale", "model.layers.1.mlp.experts.gate_up_proj",
        [](RawFile& raw) { raw.erase("model.layers.1.mlp.experts.gate_up_proj_weight_scale"); });
    make_raw("qwen3-modelopt-nvfp4", "missing-layer", "model.layers.0", [](RawFile& raw) {
      std::vector<std::string> names;
      for (const auto& [name, info] : raw.header.items()) {
        if (name.starts_with("model.layers.0.")) names.push_back(name);
      }
      for (const std::string& name : names) raw.erase(name);
    });
    make_raw("qwen3-modelopt-nvfp4", "two-global-scales", "experts.0.up_proj", [](RawFile& raw) {
      raw.append("model.layers.0.mlp.experts.0.up_proj.weight_global_scale", "F32", {1},
                 std::string("\0\0\x80\x3f", 4));
    });
    make_raw("qwen3-modelopt-nvfp4", "packed-and-plain-weight", "experts.0.up_proj",
             [](RawFile& raw) {
               raw.append("model.layers.0.mlp.experts.0.up_proj.weight_packed", "U8", {1, 1}, "x");
             });
    make_raw("qwen3-modelopt-nvfp4", "awq-scales", "pre_quant_scale", [](RawFile& raw) {
      raw.append("model.layers.0.mlp.experts.0.up_proj.pre_quant_scale", "BF16", {64},
                 std::string(128, '\x3f'));
    });
    make_raw(
        "qwen3-modelopt-nvfp4", "one-expert-unquantised", "experts.3.up_proj", [](RawFile& raw) {
          const std::string module = "model.layers.0.mlp.experts.3.up_proj.";
          for (const char* suffix : {"weight", "weight_scale", "weight_scale_2", "input_scale"}) {
            raw.erase(module + suffix);
          }
          raw.append(module + "weight", "BF16", {32, 64}, std::string(4096, '\0'));
        });
    make_raw("qwen3-modelopt-nvfp4", "seventh-expert", "experts.6", [](RawFile& raw) {
      raw.append("model.layers.0.mlp.experts.6.up_proj.weight", "U8", {1, 8}, "12345678");
    });
  }

  void shards() {
    const std::string base = "qwen3-ct-nvfp4";
    const std::string first = "model-00001-of-00002.safetensors";
    const std::string index = "model.safetensors.index.json";
    const auto shard = [&](const std::string& name, const std::function<void(const fs::path&)>& f) {
      make(base, {"shard-" + name, first, ""}, [&](const fs::path& folder) { f(folder / first); });
    };
    shard("missing", [](const fs::path& path) { fs::remove(path); });
    shard("empty", [](const fs::path& path) { write_file(path, ""); });
    shard("folder", [](const fs::path& path) {
      fs::remove(path);
      fs::create_directory(path);
    });
    shard("symlink-loop", [](const fs::path& path) {
      fs::remove(path);
      fs::create_symlink(path.filename(), path);
    });
    shard("dangling-symlink", [](const fs::path& path) {
      fs::remove(path);
      fs::create_symlink("nowhere", path);
    });
    shard("truncated", [](const fs::path& path) { fs::resize_file(path, 5000); });
    shard("lfs-pointer", [](const fs::path& path) {
      write_file(path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    });
    make(base, {"shard-holds-the-other's-tensors", "", "tensor "}, [&](const fs::path& folder) {
      fs::copy_file(folder / first, folder / "model-00002-of-00002.safetensors",
                    fs::copy_options::overwrite_existing);
    });
    const auto text = [&](const std::string& name, const std::string& content) {
      make(base, {"index-" + name, index, ""},
           [&](const fs::path& folder) { write_file(folder / index, content); });
    };
    text("empty", "");
    text("array", "[]");
    text("no-map", "{}");
    text("empty-map", R"({"weight_map":{}})");
    text("map-is-array", R"({"weight_map":["a"]})");
    text("map-is-null", R"({"weight_map":null})");
    text("not-utf8", "{\"weight_map\":{\"a\xff\":\"b\"}}");
    text("duplicate-keys", R"({"weight_map":{"a":"b","a":"c"}})");
    text("deep", std::string(100000, '['));
    const std::string norm = "model.norm.weight";
    const auto map = [&](const std::string& name, const std::string& mention,
                         const std::function<void(Json&)>& f) {
      make_json(base, {"index-" + name, index, mention},
                [&](Json& json) { f(json["weight_map"]); });
    };
    map("number", norm, [&](Json& json) { json[norm] = 1; });
    map("empty-name", norm, [&](Json& json) { json[norm] = ""; });
    map("parent-folder", norm, [&](Json& json) { json[norm] = "../" + first; });
    map("absolute-path", norm, [&](Json& json) { json[norm] = "/dev/zero"; });
    map("dot-dot", norm, [&](Json& json) { json[norm] = ".."; });
    map("zero-byte", norm, [&](Json& json) { json[norm] = std::string("a\0b", 3); });
    map("absent-tensor", "model.ghost", [&](Json& json) { json["model.ghost"] = first; });
    map("wrong-shard", "", [&](Json& json) {
      for (auto& [name, file] : json.items()) file = first;
    });
    make_json(base, {"index-unknown-file", index, ""},
              [&](Json& json) { json["weight_map"][norm] = "ghost.safetensors"; });
  }

  void config_values() {
    const std::vector<std::pair<const char*, Json>> bad = {{"missing", Json()},
                                                           {"negative", -1},
                                                           {"zero", 0},
                                                           {"2-31", 2147483648u},
                                                           {"2-63", uint64_t{1} << 63},
                                                           {"string", "64"},
                                                           {"fraction", 1.5},
                                                           {"true", true},
                                                           {"array", Json::array()},
                                                           {"object", Json::object()},
                                                           {"huge-float", 1e300}};
    for (const char* key : {"hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads",
                            "num_local_experts", "num_experts_per_tok", "moe_intermediate_size"}) {
      for (const auto& [what, value] : bad) {
        make_json("qwen3-modelopt-nvfp4",
                  {fmt::format("config-{}-{}", key, what), "config.json",
                   std::string(key) == "num_local_experts" ? "experts" : key},
                  [&, value = value](Json& json) {
                    if (value.is_null()) {
                      json.erase(key);
                    } else {
                      json[key] = value;
                    }
                  });
      }
    }
    const auto value = [&](const char* base, const std::string& key, const Json& set) {
      std::string name = fmt::format("config-{}-{}", key, set.dump());
      for (char& c : name) {
        if (c == '/' || c == '"') c = '_';
      }
      make_json(base, {name, "config.json", key}, [&](Json& json) { json[key] = set; });
    };
    const char* qwen3 = "qwen3-modelopt-nvfp4";
    const char* qwen35 = "qwen3_5-ct-nvfp4a16";
    for (const Json& set : {Json(0), Json(-2), Json(3), Json("2"), Json(2147483648u)}) {
      value(qwen3, "num_key_value_heads", set);
    }
    for (const Json& set : {Json(0), Json("16"), Json(1.25)}) value(qwen3, "head_dim", set);
    value(qwen3, "num_experts_per_tok", 7);
    value(qwen3, "num_experts", 5);  // num_local_experts says 6
    value(qwen3, "hidden_act", "tanhshrink");
    value(qwen3, "hidden_act", 3);
    value(qwen3, "model_type", 3);
    value(qwen3, "rms_norm_eps", "small");
    value(qwen3, "rms_norm_eps", -1);
    value(qwen3, "tie_word_embeddings", "yes");
    value(qwen3, "norm_topk_prob", 1);
    value(qwen3, "rope_parameters", 7);
    value(qwen3, "rope_parameters", Json::array());
    value(qwen3, "mlp_only_layers", 1);
    value(qwen3, "mlp_only_layers", Json::array({2}));
    value(qwen3, "mlp_only_layers", Json::array({-1}));
    value(qwen3, "mlp_only_layers", Json::array({"1"}));
    value(qwen3, "decoder_sparse_step", 0);
    value(qwen3, "architectures", "Qwen3MoeForCausalLM");
    value(qwen3, "text_config", 5);
    value(qwen3, "quantization_config", 5);
    value(qwen3, "quantization_config", Json::array());
    value(qwen35, "layer_types", Json::array());
    value(qwen35, "layer_types", Json::array({"full_attention"}));
    value(qwen35, "layer_types", Json::array({1, 2}));
    value(qwen35, "layer_types", "full_attention");
    for (const char* key : {"linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
                            "linear_value_head_dim", "linear_conv_kernel_dim"}) {
      for (const Json& set : {Json(0), Json(-1), Json("4"), Json(2147483648u)}) {
        value(qwen35, key, set);
      }
    }
    value(qwen35, "linear_num_value_heads", 3);
    value(qwen35, "shared_expert_intermediate_size", -1);
    value(qwen35, "rope_theta", 0);
    value(qwen35, "partial_rotary_factor", 2);
    for (const char* file : {"config.json", "hf_quant_config.json"}) {
      const auto text = [&](const std::string& what, const std::string& content) {
        make(qwen3, {fmt::format("{}-{}", file, what), file, ""},
             [&](const fs::path& folder) { write_file(folder / file, content); });
      };
      text("empty", "");
      text("array", "[]");
      text("string", "\"x\"");
      text("number", "7");
      text("cut", "{\"a\": [1, 2");
      text("not-utf8", "{\"a\": \"\xff\xfe\"}");
      text("zero-bytes", std::string(100, '\0'));
      text("duplicate-key", R"({"a": 1, "a": 2})");
      text("deep", std::string(200000, '['));
      text("deep-objects", [] {
        std::string deep;
        for (int i = 0; i < 100; ++i) deep += "{\"a\":";
        return deep + "1" + std::string(100, '}');
      }());
      text("huge-number", R"({"a": 1e999})");
      text("binary", std::string("\x89PNG\r\n\x1a\n\0\0", 10));
      make(qwen3, {fmt::format("{}-folder", file), file, ""}, [&](const fs::path& folder) {
        fs::remove(folder / file);
        fs::create_directory(folder / file);
      });
      make(qwen3, {fmt::format("{}-symlink-loop", file), file, ""}, [&](const fs::path& folder) {
        fs::remove(folder / file);
        fs::create_symlink(file, folder / file);
      });
    }
    make(qwen3, {"config.json-missing", "config.json", ""},
         [](const fs::path& folder) { fs::remove(folder / "config.json"); });
  }

  // Values that are fine by themselves and do not fit the tensors.
  void config_sizes() {
    const auto unfit = [&](const std::string& key, int64_t set, const std::string& mention) {
      make("qwen3-modelopt-nvfp4",
           {fmt::format("unfit-{}-{}", key, set), "model.safetensors", mention},
           [&](const fs::path& folder) {
             Json json = Json::parse(read_file(folder / "config.json"));
             json[key] = set;
             write_file(folder / "config.json", json.dump());
           });
    };
    unfit("hidden_size", 128, "tensor ");
    unfit("hidden_size", 32, "tensor ");
    unfit("vocab_size", 321, "model.embed_tokens.weight");
    unfit("moe_intermediate_size", 16, "tensor ");
    unfit("moe_intermediate_size", 64, "tensor ");
    unfit("num_local_experts", 5, "experts.5");
    unfit("num_local_experts", 7, "experts.6");
    unfit("num_hidden_layers", 3, "model.layers.2");
  }

  void quantisation_configs() {
    const char* modelopt = "qwen3-modelopt-nvfp4";
    const auto hf = [&](const std::string& what, const std::string& mention,
                        const std::function<void(Json&)>& f) {
      make_json(modelopt, {"hf-quant-" + what, "hf_quant_config.json", mention},
                [&](Json& json) { f(json["quantization"]); });
    };
    hf("null", "quantization", [](Json& json) { json = nullptr; });
    hf("string", "quantization", [](Json& json) { json = "NVFP4"; });
    hf("algorithm-number", "quant_algo", [](Json& json) { json["quant_algo"] = 4; });
    hf("excludes-string", "exclude_modules", [](Json& json) { json["exclude_modules"] = "*"; });
    hf("excludes-numbers", "exclude_modules", [](Json& json) { json["exclude_modules"] = {1}; });
    hf("layers-array", "quantized_layers",
       [](Json& json) { json["quantized_layers"] = Json::array(); });
    hf("layer-string", "quantized_layers.a", [](Json& json) {
      json["quantized_layers"] = {{"a", "FP8"}};
    });
    hf("layer-without-algorithm", "quantized_layers.a", [](Json& json) {
      json["quantized_layers"] = {{"a", Json::object()}};
    });
    hf("too-many-floating-globs", "*", [](Json& json) {
      json["exclude_modules"] = Json::array();
      for (int i = 0; i < 2000; ++i) json["exclude_modules"].push_back(fmt::format("*.x{}", i));
    });
    hf("kv-cache-number", "kv_cache_quant_algo",
       [](Json& json) { json["kv_cache_quant_algo"] = 8; });

    // Both entries are good by themselves: the experts that they disagree about are named.
    make(modelopt, {"hf-quant-experts-disagree", "model.safetensors", "experts.0.up_proj"},
         [](const fs::path& folder) {
           Json json = Json::parse(read_file(folder / "hf_quant_config.json"));
           json["quantization"]["quantized_layers"] = {
               {"model.layers.0.mlp.experts.0.up_proj", {{"quant_algo", "W4A16_NVFP4"}}}};
           write_file(folder / "hf_quant_config.json", json.dump());
         });

    const char* ct_base = "qwen3-ct-mixed";
    const auto ct = [&](const std::string& what, const std::string& mention,
                        const std::function<void(Json&)>& f) {
      make_json(ct_base, {"ct-" + what, "config.json", mention},
                [&](Json& json) { f(json["quantization_config"]); });
    };
    ct("regex-open", "re:(", [](Json& json) { json["ignore"] = {"re:("}; });
    ct("regex-unknown-escape", "re:", [](Json& json) { json["ignore"] = {"re:a(?<n"}; });
    ct("regex-too-long",
       "re:", [](Json& json) { json["ignore"] = {"re:" + std::string(100000, 'a')}; });
    ct("regex-too-deep", "re:", [](Json& json) {
      json["ignore"] = {"re:" + std::string(2000, '(') + std::string(2000, ')')};
    });
    ct("regex-catastrophic",
       "re:", [](Json& json) { json["ignore"] = {"re:(?:[a-z_.0-9]+)+[A-Z]"}; });
    ct("targets-string", "targets",
       [](Json& json) { json["config_groups"]["group_0"]["targets"] = "Linear"; });
    ct("targets-numbers", "targets",
       [](Json& json) { json["config_groups"]["group_0"]["targets"] = {1}; });
    ct("ignore-object", "ignore", [](Json& json) { json["ignore"] = Json::object(); });
    ct("groups-array", "config_groups", [](Json& json) { json["config_groups"] = {1}; });
    ct("group-string", "group_0", [](Json& json) { json["config_groups"]["group_0"] = "x"; });
    ct("weights-string", "weights",
       [](Json& json) { json["config_groups"]["group_0"]["weights"] = "x"; });
    ct("bits-string", "num_bits",
       [](Json& json) { json["config_groups"]["group_0"]["weights"]["num_bits"] = "8"; });
    ct("bits-negative", "num_bits",
       [](Json& json) { json["config_groups"]["group_0"]["weights"]["num_bits"] = -8; });
    ct("type-number", "type",
       [](Json& json) { json["config_groups"]["group_0"]["weights"]["type"] = 8; });
    ct("strategy-number", "strategy",
       [](Json& json) { json["config_groups"]["group_0"]["weights"]["strategy"] = 8; });
    ct("group-size-huge", "group_size",
       [](Json& json) { json["config_groups"]["group_0"]["weights"]["group_size"] = 1e18; });
    ct("method-number", "quant_method", [](Json& json) { json["quant_method"] = 8; });
    ct("method-missing", "quant_method", [](Json& json) { json = Json::object(); });
    const auto block = [&](const std::string& what, const Json& set) {
      make_json("qwen3-fp8-block128", {"block-size-" + what, "config.json", "weight_block_size"},
                [&](Json& json) { json["quantization_config"]["weight_block_size"] = set; });
    };
    block("zero", {0, 128});
    block("negative", {-128, 128});
    block("one", Json::array({128}));
    block("string", "128");
    block("strings", {"128", "128"});
    block("huge", {uint64_t{1} << 40, 128});
    make("qwen3-fp8-block128", {"block-size-64", "model.safetensors", "weight_scale_inv"},
         [](const fs::path& folder) {
           Json json = Json::parse(read_file(folder / "config.json"));
           json["quantization_config"]["weight_block_size"] = {64, 64};
           write_file(folder / "config.json", json.dump());
         });
  }

  void folders() {
    const char* base = "qwen3-modelopt-nvfp4";
    const auto folder = [&](const std::string& name, const std::string& file,
                            const std::function<void(const fs::path&)>& f) {
      make(base, {"folder-" + name, file, ""}, f);
    };
    folder("without-weights", "folder-without-weights",
           [](const fs::path& path) { fs::remove(path / "model.safetensors"); });
    folder("empty", "config.json", [](const fs::path& path) {
      for (const auto& entry : fs::directory_iterator(path)) fs::remove_all(entry.path());
    });
    folder("several-files-no-index", "folder-several-files-no-index", [](const fs::path& path) {
      fs::rename(path / "model.safetensors", path / "a.safetensors");
      fs::copy(path / "a.safetensors", path / "b.safetensors");
    });
    folder("several-indices", "folder-several-indices", [](const fs::path& path) {
      fs::remove(path / "model.safetensors");
      write_file(path / "a.safetensors.index.json", "{}");
      write_file(path / "b.safetensors.index.json", "{}");
    });
    folder("weights-are-a-folder", "model.safetensors", [](const fs::path& path) {
      fs::remove(path / "model.safetensors");
      fs::create_directory(path / "model.safetensors");
    });
    folder("weights-symlink-loop", "model.safetensors", [](const fs::path& path) {
      fs::remove(path / "model.safetensors");
      fs::create_symlink("model.safetensors", path / "model.safetensors");
    });
    folder("weights-are-a-pipe", "model.safetensors", [](const fs::path& path) {
      fs::remove(path / "model.safetensors");
      if (mkfifo((path / "model.safetensors").c_str(), 0600) != 0) {
        throw std::runtime_error("mkfifo");
      }
    });
    folder("index-is-a-folder", "model.safetensors.index.json", [](const fs::path& path) {
      fs::remove(path / "model.safetensors");
      fs::create_directory(path / "model.safetensors.index.json");
    });
    folder("weights-of-another-kind", "model.safetensors", [](const fs::path& path) {
      RawFile raw{Json::object(), ""};
      raw.append("conv.weight", "F32", {1}, "1234");
      raw.save(path / "model.safetensors");
    });
  }

  fs::path checkpoints_;
  fs::path out_;
  std::function<void(const Damage&, const fs::path&)> visit_;
};

}  // namespace

void for_each_damage(
    const std::filesystem::path& checkpoints, const std::filesystem::path& out,
    const std::function<void(const Damage&, const std::filesystem::path& folder)>& visit) {
  Generator(checkpoints, out, visit).run();
}

}  // namespace moe4::testing
