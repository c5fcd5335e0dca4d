// What the program does when a signal ends it.
#pragma once

namespace moe4::cli {

/// SIGINT, SIGTERM and SIGHUP remove unfinished output files and then end the program as they would
/// have; ignored ones (nohup) stay ignored. SIGBUS in a mapped file, which another program cut,
/// says so in one line and exits with status 3.
void install_signal_handlers();

}  // namespace moe4::cli
