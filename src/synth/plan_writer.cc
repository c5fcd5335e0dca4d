// Shards with their headers, pieces of them handed out to threads, then an atomic rename of the
// folder.
#include "synth/plan_writer.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "base/unfinished_path.h"
#include "checkpoint/safetensors_writer.h"
#include "synth/synth_fill.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kShardBytes = int64_t{4} << 30;
constexpr int64_t kPieceBytes = int64_t{4} << 20;
constexpr int64_t kShareBytes = int64_t{64} << 20;  // of tensors that a thread takes at a time

[[noreturn]] void write_failed(const fs::path& file) {
  throw Error(ErrorCode::kUnavailable,
              "cannot write " + file.string() + ": the disk is full or not writable");
}

// Removes the unfinished folder unless the checkpoint was completed.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(fs::path path) : path_(std::move(path)) {
    std::error_code error;
    fs::remove_all(path_, error);
    if (!fs::create_directories(path_, error)) write_failed(path_);
    unfinished_.push_back(std::make_unique<UnfinishedPath>(path_));
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  /// A file in it that a signal removes with it.
  fs::path add(const std::string& name) {
    unfinished_.push_back(std::make_unique<UnfinishedPath>(path_ / name));
    return path_ / name;
  }
  void become(const fs::path& name) {
    std::error_code error;
    fs::rename(path_, name, error);
    if (error) write_failed(name);
    path_.clear();
    unfinished_.clear();
  }

 private:
  fs::path path_;
  std::vector<std::unique_ptr<UnfinishedPath>> unfinished_;
};

void write_text(const fs::path& file, const std::string& text) {
  std::ofstream out(file, std::ios::binary);
  out << text << '\n';
  out.close();
  if (!out) write_failed(file);
}

using Tensors = std::span<const SynthTensor>;

// Runs of whole tensors of at most `most` bytes, unless one alone is larger.
std::vector<Tensors> cut(Tensors tensors, int64_t most) {
  std::vector<Tensors> runs;
  for (size_t begin = 0; begin < tensors.size();) {
    size_t end = begin;
    for (int64_t bytes = 0; end < tensors.size(); ++end) {
      bytes += tensors[end].num_bytes();
      if (bytes > most && end > begin) break;
    }
    runs.push_back(tensors.subspan(begin, end - begin));
    begin = end;
  }
  return runs;
}

class Filling {
 public:
  Filling(const FillOptions& options, int64_t total) : options_(options), total_(total) {}

  // Of one file, which other threads write other tensors of.
  struct Share {
    SafetensorsWriter* writer;
    Tensors tensors;
  };

  void fill(std::span<const Share> shares) {
    ThreadPool threads(options_.threads);
    std::vector<AlignedBuffer> pieces(static_cast<size_t>(threads.size()));
    threads.parallel_for(static_cast<int64_t>(shares.size()), 1,
                         [&](int64_t begin, int64_t end, int thread) {
                           AlignedBuffer& piece = pieces[static_cast<size_t>(thread)];
                           for (int64_t i = begin; i < end && !failed_; ++i) {
                             try {
                               if (piece.size() == 0) piece = AlignedBuffer(kPieceBytes);
                               fill_share(shares[static_cast<size_t>(i)], piece);
                             } catch (...) {
                               const std::lock_guard lock(mutex_);
                               if (!failed_) error_ = std::current_exception();
                               failed_ = true;
                             }
                           }
                         });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void fill_share(const Share& share, AlignedBuffer& piece) {
    for (const SynthTensor& tensor : share.tensors) {
      TensorFiller filler(tensor, options_.seed);
      for (int64_t left = tensor.num_bytes(); left > 0 && !failed_;) {
        const int64_t bytes = std::min(left, kPieceBytes);
        filler.fill({piece.data(), static_cast<size_t>(bytes)});
        share.writer->write(tensor.name, piece.data(), bytes);
        left -= bytes;
        report(bytes);
      }
    }
  }

  void report(int64_t bytes) {
    if (!options_.progress) return;
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    options_.progress(done_, total_);
  }

  const FillOptions& options_;
  const int64_t total_;
  std::mutex mutex_;
  int64_t done_ = 0;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

// Neighbours in the list are of different files: writes to one file wait for each other.
std::vector<Filling::Share> dealt(const std::vector<Tensors>& shards,
                                  const std::vector<std::unique_ptr<SafetensorsWriter>>& writers) {
  std::vector<std::vector<Tensors>> runs;
  size_t most = 0;
  for (const Tensors& shard : shards) {
    runs.push_back(cut(shard, kShareBytes));
    most = std::max(most, runs.back().size());
  }
  std::vector<Filling::Share> shares;
  for (size_t i = 0; i < most; ++i) {
    for (size_t s = 0; s < shards.size(); ++s) {
      if (i < runs[s].size()) shares.push_back({writers[s].get(), runs[s][i]});
    }
  }
  return shares;
}

void check_space(const fs::path& folder, int64_t bytes) {
  std::error_code error;
  const auto space = fs::space(folder, error);
  if (error || static_cast<int64_t>(space.available) >= bytes + (64 << 20)) return;
  throw Error(ErrorCode::kUnavailable, "not enough disk space in " + folder.string() + ": needs " +
                                           std::to_string(bytes >> 20) + " MiB, has " +
                                           std::to_string(space.available >> 20) +
                                           " MiB; write fewer layers");
}

}  // namespace

SynthResult write_plan(const fs::path& out, const SynthPlan& plan, const FillOptions& options) {
  if (fs::exists(out))
    throw Error(ErrorCode::kUsage, out.string() + " exists already: name a new folder");
  SynthResult result{.tensors = static_cast<int64_t>(plan.tensors.size())};
  for (const SynthTensor& tensor : plan.tensors) result.bytes += tensor.num_bytes();
  const fs::path target = fs::absolute(out);
  std::error_code error;
  fs::create_directories(target.parent_path(), error);
  check_space(target.parent_path(), result.bytes);
  TemporaryFolder folder(target.string() + ".partial");

  // All files are made and finished by this thread alone: a signal then finds them in the list of
  // what is unfinished.
  const std::vector<Tensors> shards = cut(plan.tensors, kShardBytes);
  result.shards = static_cast<int64_t>(shards.size());
  std::vector<std::unique_ptr<SafetensorsWriter>> writers;
  std::map<std::string, std::string> weight_map;
  for (size_t s = 0; s < shards.size(); ++s) {
    char name[64] = "model.safetensors";
    if (shards.size() > 1) {
      std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", s + 1, shards.size());
    }
    std::vector<TensorSpec> specs;
    for (const SynthTensor& tensor : shards[s]) {
      weight_map[tensor.name] = name;
      specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
    writers.push_back(std::make_unique<SafetensorsWriter>(
        folder.add(name), std::move(specs), std::map<std::string, std::string>{{"format", "pt"}}));
  }
  Filling(options, result.bytes).fill(dealt(shards, writers));
  for (const auto& writer : writers) writer->finish();

  if (shards.size() > 1) {
    const nlohmann::ordered_json index = {{"metadata", {{"total_size", result.bytes}}},
                                          {"weight_map", weight_map}};
    write_text(folder.add("model.safetensors.index.json"), index.dump(1));
  }
  for (const SynthText& text : plan.texts) write_text(folder.add(text.name), text.text);
  for (const fs::path& file : plan.copies) {
    const fs::path copy = folder.add(file.filename().string());
    if (!fs::copy_file(file, copy, error)) write_failed(copy);
  }
  folder.become(target);
  return result;
}

}  // namespace moe4
