// The subcommands of the moe4 program, one file each.
#pragma once

namespace CLI {
class App;
}

namespace moe4::cli {

/// Each adds one subcommand, which runs while the command line is parsed and throws moe4::Error.
void add_inspect(CLI::App& app);
void add_plan(CLI::App& app);
void add_run(CLI::App& app);
void add_chat(CLI::App& app);
void add_eval(CLI::App& app);
void add_forward(CLI::App& app);
void add_experts(CLI::App& app);
void add_compare(CLI::App& app);
void add_bench(CLI::App& app);
void add_bench_moe(CLI::App& app);
void add_bench_serve(CLI::App& app);
void add_bench_throughput(CLI::App& app);
void add_synth(CLI::App& app);
void add_serve(CLI::App& app);
void add_template(CLI::App& app);

}  // namespace moe4::cli
