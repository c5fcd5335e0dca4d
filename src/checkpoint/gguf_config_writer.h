// config.json of a GGUF model while it is written: keys of the metadata in, keys of the folder out.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/gguf_names.h"
#include "checkpoint/json_reader.h"
#include "gguf/file.h"

namespace moe4 {

/// Keys below "ARCHITECTURE."; every one that is read is noted. Functions throw Error(kBadInput)
/// naming file and key. The model outlives it.
class GgufConfigWriter {
 public:
  GgufConfigWriter(const GgufModel& model, const GgufArchitecture& architecture)
      : model_(model),
        metadata_(model.metadata()),
        prefix_(std::string(architecture.name) + "."),
        config_(Json::object()) {
    config_["model_type"] = architecture.model_type;
    config_["architectures"] = {architecture.name};  // for reports
  }

  Json& config() { return config_; }

  std::optional<int64_t> integer(const char* key) { return metadata_.integer(note(key)); }
  int64_t required(const char* key) { return metadata_.required_integer(note(key)); }
  std::optional<double> number(const char* key) { return metadata_.number(note(key)); }
  std::optional<bool> flag(const char* key) { return metadata_.boolean(note(key)); }
  std::optional<std::string> word(const char* key) { return metadata_.string(note(key)); }
  /// One a layer, or one for all.
  std::vector<int64_t> per_layer(const char* key);
  /// The value of all layers that have one; throws where they differ.
  int64_t same_for_all(const char* key);
  /// The same of the layers that `marks` has as `mark`; 0 where there are none.
  int64_t same_for_marked(const char* key, const std::vector<bool>& marks, bool mark);
  /// One a layer, as bools or as 0 and 1; empty when absent.
  std::vector<bool> marks(const char* key);
  /// One a layer; empty when absent.
  std::vector<double> numbers(const char* key);

  void copy(const char* to, std::optional<int64_t> value) {
    if (value) config_[to] = *value;
  }
  void copy(const char* to, std::optional<double> value) {
    if (value) config_[to] = *value;
  }
  void copy(const char* to, std::optional<bool> value) {
    if (value) config_[to] = *value;
  }
  /// Keys that change nothing, whatever they say.
  void disregard(std::initializer_list<const char*> keys) {
    for (const char* key : keys) note(key);
  }
  void require(const char* key, int64_t value) {
    const auto found = integer(key);
    if (found && *found != value) refuse(key, std::to_string(value), std::to_string(*found));
  }
  void require(const char* key, bool value) {
    if (flag(key).value_or(value) != value) {
      refuse(key, value ? "true" : "false", value ? "false" : "true");
    }
  }
  [[noreturn]] void refuse(const char* key, const std::string& expected,
                           const std::string& found) const {
    metadata_.fail(prefix_ + key, "GGUF value is not supported", expected, found,
                   "use the model's safetensors");
  }

  [[noreturn]] void refuse_tensor(const std::string& name, const std::string& expected) const;

  const GgufTensor* tensor(const std::string& name) const { return model_.find(name); }
  bool has_tensor(const std::string& name) const { return tensor(name) != nullptr; }
  /// Whether layer i has a tensor of this name below "blk.i.".
  bool layer_has(int64_t layer, const char* name) const;
  /// The values of a vector; empty when it is absent, or its data are, as when only headers are
  /// read.
  std::vector<float> values(const std::string& name) const;
  /// Layers of the decoder, without those that draft.
  int64_t num_layers() const { return num_layers_; }

  void read_common();
  /// rope.scaling.*; none is no object.
  void read_scaling();
  void refuse_unread() const;

 private:
  /// Of a list a layer: those of the decoder.
  template <typename T>
  std::vector<T> first_layers(const char* key, const std::vector<T>& values) const;

  std::string note(const char* key) {
    std::string name = prefix_ + key;
    read_.insert(name);
    return name;
  }

  const GgufModel& model_;
  GgufMetadata metadata_;
  std::string prefix_;
  Json config_;
  std::set<std::string, std::less<>> read_;
  int64_t num_layers_ = 0;
};

/// `layer_types` of layers that have a window and layers that have none.
Json attention_layer_types(const std::vector<bool>& windows);

}  // namespace moe4
