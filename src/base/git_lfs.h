// Recognises Git LFS pointers: the three lines of text that a clone without LFS has for a file.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace moe4 {

/// Whether a file that begins with `bytes` (at least its first 64, or all of it) is a pointer.
bool is_git_lfs_pointer(std::string_view bytes);
/// The same of a file; false when it cannot be read.
bool is_git_lfs_pointer_file(const std::filesystem::path& file);

/// Throws Error(kBadInput) that says so when `bytes`, the beginning of `file`, are a pointer.
void refuse_git_lfs_pointer(std::string_view bytes, const std::string& file);

}  // namespace moe4
