// The ways to a synthetic checkpoint.
#include "synth/synth.h"

#include "base/error.h"
#include "synth/header_plan.h"
#include "synth/plan_writer.h"
#include "synth/synth_plan.h"

namespace moe4 {

SynthFormat parse_synth_format(const std::string& name) {
  if (name == "modelopt-mixed") return SynthFormat::kModelOptMixed;
  if (name == "modelopt") return SynthFormat::kModelOptNvfp4;
  if (name == "compressed-tensors") return SynthFormat::kCompressedTensors;
  throw Error(ErrorCode::kUsage, "unknown format '" + printable(name) +
                                     "': expected modelopt-mixed, modelopt or compressed-tensors");
}

SynthResult write_synthetic_checkpoint(const std::filesystem::path& out,
                                       const SynthOptions& options) {
  return write_plan(out, make_synth_plan(options), options.fill);
}

SynthResult fill_headers(const std::filesystem::path& out, const std::filesystem::path& headers,
                         const FillOptions& options) {
  return write_plan(out, plan_of_headers(headers), options);
}

}  // namespace moe4
