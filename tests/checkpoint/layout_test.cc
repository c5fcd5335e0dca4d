// Layouts found in published checkpoints give the same weights as the plainest one.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/stored_linear.h"
#include "support/editable_checkpoint.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::EditableCheckpoint;
using testing::EditableTensor;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::replaced;
using testing::TempDir;

constexpr int64_t kExperts = 6;
constexpr int64_t kLayers = 2;

std::string bytes_of(const TensorView& view) {
  if (view.empty()) return "";
  return {static_cast<const char*>(view.data), static_cast<size_t>(view.num_bytes())};
}

// Everything that a linear's values depend on.
std::string fingerprint(const LinearWeights& linear) {
  return fmt::format("{} {} {} {}|", shape_to_string({linear.out_features, linear.in_features}),
                     to_string(linear.scheme), linear.global_scale.value,
                     linear.input_scale ? linear.input_scale->value : -1.0f) +
         bytes_of(linear.weight) + "|" + bytes_of(linear.scale) + "|" + bytes_of(linear.bias);
}

// One string a projection, so that a failure shows which differ.
std::vector<std::string> experts_of(const fs::path& folder) {
  const auto checkpoint = Checkpoint::open(folder);
  std::vector<std::string> all;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    for (const ExpertWeights& expert : checkpoint->moe_layer(layer).experts) {
      all.push_back(fingerprint(*expert.gate));
      all.push_back(fingerprint(expert.up));
      all.push_back(fingerprint(expert.down));
    }
  }
  return all;
}

std::vector<std::string> experts_of(const EditableCheckpoint& checkpoint) {
  TempDir dir;
  checkpoint.write(dir.path());
  return experts_of(dir.path());
}

std::string open_error(const fs::path& folder, const CheckpointOptions& options = {}) {
  try {
    const auto checkpoint = Checkpoint::open(folder, options);
    for (int64_t layer = 0; layer < kLayers; ++layer) (void)checkpoint->moe_layer(layer);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.what();
    return error.what();
  }
  return "no error";
}

std::string notes_of(const fs::path& folder, const CheckpointOptions& options = {}) {
  std::string text;
  const auto checkpoint = Checkpoint::open(folder, options);
  for (const CheckpointNote& note : checkpoint->notes()) {
    text += note.where + ": " + note.message + "\n";
  }
  return text;
}

// Biases of all experts that differ from each other everywhere.
void add_biases(EditableCheckpoint& checkpoint) {
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    for (int64_t expert = 0; expert < kExperts; ++expert) {
      for (const std::string name : {"gate_proj", "up_proj", "down_proj"}) {
        const std::string module =
            fmt::format("model.layers.{}.mlp.experts.{}.{}", layer, expert, name);
        const bool packed = checkpoint.tensors.contains(module + ".weight_packed");
        const int64_t n =
            checkpoint.tensors.at(module + (packed ? ".weight_packed" : ".weight")).shape[0];
        std::vector<float> values(n);
        for (int64_t i = 0; i < n; ++i) {
          values[i] =
              static_cast<float>(1000 * layer + 100 * expert + i) + (name == "up_proj" ? 0.5f : 0);
        }
        checkpoint.add(module + ".bias", {n}, values);
      }
    }
  }
}

// Stacks the experts into 3-D tensors; `name` spells a tensor of a fused projection from
// "gate_up_proj" or "down_proj" and the suffix of the single ones. Scalars become [E, 2] and [E].
void fuse(EditableCheckpoint& checkpoint,
          const std::function<std::string(std::string, std::string)>& name) {
  EditableCheckpoint::Tensors fused;
  const auto append = [](EditableTensor& to, const EditableTensor& from) {
    to.dtype = from.dtype;
    to.bytes.insert(to.bytes.end(), from.bytes.begin(), from.bytes.end());
  };
  const bool packed =
      checkpoint.tensors.contains("model.layers.0.mlp.experts.0.up_proj.weight_packed");
  std::vector<std::string> suffixes =
      packed ? std::vector<std::string>{"weight_packed", "weight_scale", "weight_global_scale",
                                        "input_global_scale"}
             : std::vector<std::string>{"weight", "weight_scale", "weight_scale_2", "input_scale"};
  suffixes.emplace_back("bias");
  std::erase_if(suffixes, [&](const std::string& suffix) {
    return !checkpoint.tensors.contains("model.layers.0.mlp.experts.0.up_proj." + suffix);
  });
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const std::string base = fmt::format("model.layers.{}.mlp.experts.", layer);
    for (const std::string& suffix : suffixes) {
      for (const bool both : {true, false}) {
        EditableTensor& out = fused[base + name(both ? "gate_up_proj" : "down_proj", suffix)];
        const std::vector<std::string> parts =
            both ? std::vector<std::string>{"gate_proj", "up_proj"}
                 : std::vector<std::string>{"down_proj"};
        for (int64_t expert = 0; expert < kExperts; ++expert) {
          for (const std::string& part : parts) {
            const auto it =
                checkpoint.tensors.find(fmt::format("{}{}.{}.{}", base, expert, part, suffix));
            const std::vector<int64_t>& shape = it->second.shape;
            out.shape = {kExperts};
            if (shape.size() == 2 || suffix == "bias") {
              out.shape.push_back(shape[0] * static_cast<int64_t>(parts.size()));
            } else if (both) {
              out.shape.push_back(2);
            }
            if (shape.size() == 2) out.shape.push_back(shape[1]);
            append(out, it->second);
            checkpoint.tensors.erase(it);
          }
        }
      }
    }
  }
  checkpoint.tensors.merge(fused);
}

TEST(ExpertNames, EverySpellingGivesTheSameExperts) {
  const EditableCheckpoint plain(
      "qwen3-gate-up-scales");  // gate and up cannot be taken for each other
  const std::vector<std::string> expected = experts_of(plain);
  ASSERT_EQ(expected.size(), 36u);
  ASSERT_NE(expected[0], expected[1]);
  for (const char* module : {"block_sparse_moe.experts", "mixer.experts", "ffn.experts",
                             "feed_forward.experts", "moe.experts", "experts"}) {
    EditableCheckpoint renamed = plain;
    renamed.rename([&](const std::string& name) { return replaced(name, "mlp.experts", module); });
    EXPECT_EQ(experts_of(renamed), expected) << module;
  }
}

TEST(ExpertNames, W1IsGateW3IsUpW2IsDown) {
  const EditableCheckpoint plain("qwen3-gate-up-scales");
  for (const auto& [gate, up, down] : {std::tuple{"w1", "w3", "w2"}, {"gate", "up", "down"}}) {
    EditableCheckpoint renamed = plain;
    renamed.rename([&, gate = gate, up = up, down = down](const std::string& name) {
      if (name.find(".experts.") == std::string::npos) return name;
      return replaced(replaced(replaced(name, ".gate_proj.", std::string(".") + gate + "."),
                               ".up_proj.", std::string(".") + up + "."),
                      ".down_proj.", std::string(".") + down + ".");
    });
    EXPECT_EQ(experts_of(renamed), experts_of(plain)) << gate;
  }
}

TEST(ExpertNames, TheProjectionMayComeFirst) {
  const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
  EditableCheckpoint renamed = plain;
  renamed.rename([](std::string name) {
    for (int64_t expert = 0; expert < kExperts; ++expert) {
      for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
        name = replaced(name, fmt::format(".experts.{}.{}.", expert, projection),
                        fmt::format(".experts.{}.{}.", projection, expert));
      }
    }
    return name;
  });
  EXPECT_TRUE(renamed.tensors.contains("model.layers.0.mlp.experts.up_proj.5.weight"));
  EXPECT_EQ(experts_of(renamed), experts_of(plain));
  renamed.tensors["model.layers.1.mlp.experts.up_proj.6.weight"] =
      renamed.tensors["model.layers.1.mlp.experts.up_proj.5.weight"];
  TempDir dir;
  renamed.write(dir.path());
  EXPECT_THAT(open_error(dir.path()), HasSubstr("more experts than the configuration says"));
}

TEST(FusedExperts, EveryStyleGivesTheSameExpertsAndBiases) {
  const auto dot = [](const std::string& p, const std::string& s) { return p + "." + s; };
  const auto underscore = [](const std::string& p, const std::string& s) { return p + "_" + s; };
  const auto bare = [](const std::string& p, const std::string& s) {
    return s == "weight" ? p : p + "_" + s;
  };
  const auto shortened = [](const std::string& p, const std::string& s) {
    return p + "_" + (s.starts_with("weight_") ? s.substr(7) : s);
  };
  for (const char* checkpoint : {"qwen3-gate-up-scales", "qwen3-ct-nvfp4"}) {
    const bool packed = std::string(checkpoint) == "qwen3-ct-nvfp4";
    for (const bool biased : {false, true}) {
      EditableCheckpoint plain(checkpoint);
      if (biased) add_biases(plain);
      const std::vector<std::string> expected = experts_of(plain);
      std::vector<std::function<std::string(std::string, std::string)>> styles = {dot, underscore};
      if (packed) {
        styles.emplace_back(shortened);
      } else {
        styles.emplace_back(bare);
      }
      for (size_t style = 0; style < styles.size(); ++style) {
        EditableCheckpoint fused = plain;
        fuse(fused, styles[style]);
        EXPECT_EQ(experts_of(fused), expected) << checkpoint << biased << style;
      }
    }
  }
}

TEST(FusedExperts, GateAndUpMayBeStackedApart) {
  const EditableCheckpoint plain("qwen3-gate-up-scales");
  EditableCheckpoint stacked = plain;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const std::string base = fmt::format("model.layers.{}.mlp.experts.", layer);
    for (const std::string projection : {"gate_proj", "up_proj", "down_proj"}) {
      for (const std::string suffix : {"weight", "weight_scale", "weight_scale_2", "input_scale"}) {
        EditableTensor out;
        for (int64_t expert = 0; expert < kExperts; ++expert) {
          const auto it =
              stacked.tensors.find(fmt::format("{}{}.{}.{}", base, expert, projection, suffix));
          ASSERT_NE(it, stacked.tensors.end()) << projection << suffix;
          out.dtype = it->second.dtype;
          out.shape = it->second.shape;
          out.bytes.insert(out.bytes.end(), it->second.bytes.begin(), it->second.bytes.end());
          stacked.tensors.erase(it);
        }
        if (out.shape.size() < 2) out.shape.clear();  // a scalar each
        out.shape.insert(out.shape.begin(), kExperts);
        stacked.tensors[base + projection + "." + suffix] = out;
      }
    }
  }
  EXPECT_EQ(experts_of(stacked), experts_of(plain));
}

TEST(FusedExperts, ABiasOfAnotherShapeIsNamed) {
  EditableCheckpoint checkpoint("qwen3-modelopt-nvfp4");
  add_biases(checkpoint);
  fuse(checkpoint,
       [](const std::string& p, const std::string& s) { return s == "weight" ? p : p + "_" + s; });
  checkpoint.tensors["model.layers.1.mlp.experts.gate_up_proj_bias"].shape = {64, kExperts};
  TempDir dir;
  checkpoint.write(dir.path());
  EXPECT_THAT(open_error(dir.path()),
              AllOf(HasSubstr("layers.1.mlp.experts.gate_up_proj_bias"), HasSubstr("[6, 64]")));
}

// Static FP8 activations need a scale, which FP8 experts have under either dialect's name.
TEST(FusedExperts, StaticFp8ActivationsWithoutAScaleAreNoted) {
  const auto notes = [](const std::string& suffix, const std::string& separator) {
    EditableCheckpoint checkpoint("qwen3-modelopt-fp8");
    fuse(checkpoint, [&](const std::string& p, const std::string& s) { return p + separator + s; });
    checkpoint.rename([&](const std::string& name) {
      return name.find(".experts.") == std::string::npos ? name
                                                         : replaced(name, "input_scale", suffix);
    });
    if (suffix.empty()) {
      std::erase_if(checkpoint.tensors, [&](const auto& entry) {
        return entry.first.find(".experts.") != std::string::npos &&
               entry.first.back() == separator[0];
      });
    }
    TempDir dir;
    checkpoint.write(dir.path());
    return notes_of(dir.path());
  };
  const std::string note = "asks for static FP8 activations; they stay BF16 (2 such modules)";
  for (const char* separator : {".", "_"}) {
    EXPECT_THAT(notes("input_scale", separator), Not(HasSubstr("static FP8 activations")));
    EXPECT_THAT(notes("input_global_scale", separator), Not(HasSubstr("static FP8 activations")));
    const std::string without = notes("", separator);
    for (const std::string projection : {"gate_proj", "up_proj", "down_proj"}) {
      EXPECT_THAT(without, HasSubstr("experts.*." + projection + ": has no input scale although "));
    }
    EXPECT_THAT(without, HasSubstr(note));
  }
}

// --- files
// -----------------------------------------------------------------------------------------

// Layer 0 and the rest in one shard, layer 1 in another; their names.
std::vector<std::string> write_shards(const EditableCheckpoint& checkpoint, const fs::path& folder,
                                      const std::string& stem = "model") {
  checkpoint.write_config(folder);
  const std::vector<std::string> names = {stem + "-00001-of-00002.safetensors",
                                          stem + "-00002-of-00002.safetensors"};
  for (size_t i = 0; i < 2; ++i) {
    checkpoint.write_tensors(folder / names[i], [&](const std::string& name) {
      return (name.find("layers.1.") != std::string::npos) == (i == 1);
    });
  }
  return names;
}

void write_index(const EditableCheckpoint& checkpoint, const fs::path& folder,
                 const std::vector<std::string>& names) {
  nlohmann::json map;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    map[name] = names[name.find("layers.1.") != std::string::npos ? 1 : 0];
  }
  std::ofstream(folder / "model.safetensors.index.json")
      << nlohmann::json{{"weight_map", map}}.dump();
}

TEST(WeightFiles, ACompleteSetOfShardsNeedsNoIndex) {
  const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
  for (const char* stem : {"model", "model.safetensors", "other"}) {
    TempDir dir;
    write_shards(plain, dir.path(), stem);
    EXPECT_EQ(experts_of(dir.path()), experts_of(plain));
    EXPECT_THAT(notes_of(dir.path()), HasSubstr("no model.safetensors.index.json"));
  }
}

TEST(WeightFiles, AnIncompleteSetNamesTheMissingNumber) {
  TempDir dir;
  const auto names = write_shards(EditableCheckpoint("qwen3-modelopt-nvfp4"), dir.path());
  fs::remove(dir.path() / names[0]);
  EXPECT_THAT(open_error(dir.path()), HasSubstr("missing: number 1"));
  EXPECT_EQ(open_error(dir.path(), {.headers_only = true}), "no error");
  EXPECT_THAT(notes_of(dir.path(), {.headers_only = true}), HasSubstr("missing: number 1"));
}

TEST(WeightFiles, TwoSetsWithoutAnIndexAreAmbiguous) {
  TempDir dir;
  const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
  write_shards(plain, dir.path());
  write_shards(plain, dir.path(), "consolidated");
  EXPECT_THAT(open_error(dir.path()), HasSubstr("several sets of shards and no index"));
}

TEST(WeightFiles, AnIndexIsFollowedPastAStrayFile) {
  TempDir dir;
  const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
  write_index(plain, dir.path(), write_shards(plain, dir.path()));
  const EditableCheckpoint stray("qwen3-gate-up-scales");
  stray.write_tensors(dir / "model.safetensors", [](const std::string&) { return true; });
  EXPECT_EQ(experts_of(dir.path()), experts_of(plain));
  EXPECT_NE(experts_of(dir.path()), experts_of(stray));
  EXPECT_THAT(
      notes_of(dir.path()),
      HasSubstr("model.safetensors: is not read: the model is model.safetensors.index.json"));
}

TEST(WeightFiles, AnIndexWithoutAnyOfItsShardsGivesWayToTheFile) {
  TempDir dir;
  const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
  for (const std::string& name : write_shards(plain, dir.path())) fs::remove(dir.path() / name);
  write_index(plain, dir.path(), {"a.safetensors", "b.safetensors"});
  plain.write_tensors(dir / "model.safetensors", [](const std::string&) { return true; });
  EXPECT_EQ(experts_of(dir.path()), experts_of(plain));
  EXPECT_THAT(notes_of(dir.path()), HasSubstr("none of its shards is here"));
}

TEST(WeightFiles, ShardsThatHoldOnlyWhatIsIgnoredMayBeAbsent) {
  const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
  const auto open_without = [&](const std::string& extra) {
    TempDir dir;
    write_index(plain, dir.path(), write_shards(plain, dir.path()));
    std::ifstream in(dir / "model.safetensors.index.json");
    nlohmann::json index = nlohmann::json::parse(in);
    in.close();
    index["weight_map"][extra] = "extra.safetensors";
    std::ofstream(dir / "model.safetensors.index.json") << index.dump();
    return open_error(dir.path());
  };
  for (const char* extra :
       {"model.visual.blocks.0.attn.qkv.weight", "visual.patch_embed.proj.weight", "mtp.fc.weight",
        "model.layers.2.self_attn.q_proj.weight", "model.layers.0.self_attn.k_scale"}) {
    EXPECT_EQ(open_without(extra), "no error") << extra;
  }
  for (const char* extra : {"model.layers.1.self_attn.sinks", "model.layers.1.mtp.weight",
                            "model.visualize", "model.layers.x.weight"}) {
    EXPECT_THAT(open_without(extra), HasSubstr("shard is missing")) << extra;
  }
}

TEST(WeightFiles, GitLfsPointersAreNamedAsSuch) {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, 'a') +
      "\nsize 123456789\n";
  const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
  for (const char* file : {"model.safetensors", "config.json", "hf_quant_config.json"}) {
    TempDir dir;
    plain.write(dir.path());
    std::ofstream(dir / file) << pointer;
    EXPECT_THAT(open_error(dir.path()),
                AllOf(HasSubstr("Git LFS pointer"), HasSubstr("git lfs pull"), HasSubstr(file)));
  }
  TempDir dir;  // headers_only: as good as absent
  const auto names = write_shards(plain, dir.path());
  write_index(plain, dir.path(), names);
  for (const std::string& name : names) std::ofstream(dir / name) << pointer;
  EXPECT_THAT(open_error(dir.path()), HasSubstr("Git LFS pointer"));
  EXPECT_EQ(open_error(dir.path(), {.headers_only = true}), "no error");
  EXPECT_THAT(notes_of(dir.path(), {.headers_only = true}), HasSubstr("is a Git LFS pointer"));
}

TEST(WeightFiles, OtherFormatsAreNamed) {
  TempDir dir;
  const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
  plain.write(dir.path());
  std::ofstream(dir / "model.safetensors") << "GGUF and whatever follows";
  EXPECT_THAT(open_error(dir.path()), HasSubstr("GGUF"));
}

TEST(HubCache, TheRootOfARepositoryLeadsToItsSnapshot) {
  const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
  TempDir dir;
  const fs::path snapshots = dir.path() / "snapshots";
  EditableCheckpoint("qwen3-gate-up-scales").write(snapshots / "0000aa");
  EXPECT_EQ(Checkpoint::open(dir.path())->path(), snapshots / "0000aa");
  plain.write(snapshots / "1111bb");
  EXPECT_THAT(open_error(dir.path()), HasSubstr("refs/main"));
  fs::create_directories(dir / "refs");
  std::ofstream(dir / "refs/main") << "1111bb\n";
  EXPECT_EQ(Checkpoint::open(dir.path())->path(), snapshots / "1111bb");
  EXPECT_EQ(experts_of(dir.path()), experts_of(plain));
  for (const char* hostile : {"../snapshots/1111bb", "", "2222cc", "/"}) {
    std::ofstream(dir / "refs/main") << hostile;
    EXPECT_THAT(open_error(dir.path()), HasSubstr("refs/main")) << hostile;
  }
}

// --- messages and JSON
// -----------------------------------------------------------------------------

TEST(Messages, OtherDialectsAreCalledByTheirNames) {
  const auto error_of = [](const std::function<void(const std::string&, EditableTensor&)>& change) {
    EditableCheckpoint checkpoint("qwen3-modelopt-w4a16");
    for (auto& [name, tensor] : checkpoint.tensors) change(name, tensor);
    TempDir dir;
    checkpoint.write(dir.path());
    return open_error(dir.path());
  };
  EXPECT_THAT(error_of([](const std::string& name, EditableTensor& tensor) {
                if (name.ends_with("weight_scale")) tensor.dtype = DType::kU8;
              }),
              HasSubstr("block scales are stored as U8"));
  EXPECT_THAT(error_of([](const std::string& name, EditableTensor& tensor) {
                if (!name.ends_with("weight_scale")) return;
                tensor.shape[1] /= 2;
                tensor.bytes.resize(tensor.bytes.size() / 2);
              }),
              HasSubstr("NVFP4 in groups of 32 is not supported"));
  EXPECT_THAT(error_of([](const std::string& name, EditableTensor& tensor) {
                if (!name.ends_with("weight_scale")) return;
                tensor.shape[1] /= 2;
                tensor.dtype = DType::kU8;
                tensor.bytes.resize(tensor.bytes.size() / 2);
              }),
              HasSubstr("MXFP4"));
  EditableCheckpoint mlx("qwen3-modelopt-w4a16");
  mlx.rename([](const std::string& name) { return replaced(name, ".experts.", ".switch_mlp."); });
  TempDir dir;
  mlx.write(dir.path());
  EXPECT_THAT(open_error(dir.path()), AllOf(HasSubstr("MLX"), HasSubstr("switch_mlp")));
}

TEST(Formats, AnFp8ScaleOfOneValueIsOneForTheTensorWhateverItsRank) {
  const auto format = [](std::vector<int64_t> weight, std::vector<int64_t> scale) {
    StoredLinear stored{.module = "m", .weight = {"m.weight", "F", {}}};
    stored.weight.view = {.dtype = DType::kF8E4M3, .shape = std::move(weight)};
    stored.scale = NamedView{"m.weight_scale", "F", {}};
    stored.scale->view = {.dtype = DType::kF32, .shape = std::move(scale)};
    return format_of(stored);
  };
  for (const std::vector<int64_t>& one : {std::vector<int64_t>{}, {1}, {1, 1}, {1, 1, 1, 1}}) {
    EXPECT_EQ(format({256, 384}, one), QuantFormat::kFp8Tensor) << shape_to_string(one);
  }
  EXPECT_EQ(format({256, 384}, {2, 3}), QuantFormat::kFp8Block128);
  EXPECT_EQ(format({256, 384}, {256, 1}), QuantFormat::kFp8Channel);
  EXPECT_THROW(format({256, 384}, {3, 2}), Error);
}

TEST(Messages, PythonsNumbersAreAcceptedAnywhereInAFile) {
  for (const char* values : {"NaN, NaN", "Infinity, NaN, -Infinity, NaN", "\"NaN\\\"\", NaN",
                             "{\"NaN\": NaN, \"Infinity\": [Infinity, NaN]}, 1"}) {
    TempDir dir;
    const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
    plain.write(dir.path());
    std::string text = plain.config.dump();
    text.back() = ',';
    std::ofstream(dir / "config.json") << text << "\"unread\": [" << values << "]}";
    EXPECT_EQ(open_error(dir.path()), "no error") << values;
    std::ofstream(dir / "config.json") << text << "\"unread\": [" << values << "}";
    EXPECT_THAT(open_error(dir.path()), HasSubstr("JSON syntax error")) << values;
  }
}

}  // namespace
}  // namespace moe4
