# Script: writes OUTPUT, a source file that holds the bytes of INPUT.
file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${OUTPUT} "// Generated from index.html.
#include \"server/page/page.h\"

namespace moe4::server {
namespace {
constexpr unsigned char kPage[] = {${bytes}};
}  // namespace
std::string_view chat_page() { return {reinterpret_cast<const char*>(kPage), sizeof kPage}; }
}  // namespace moe4::server
")
