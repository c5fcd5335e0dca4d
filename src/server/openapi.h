// The OpenAPI document of the server, from the tables that requests are read with.
#pragma once

#include <string>

#include "server/json_body.h"

namespace moe4::server {

/// OpenAPI 3.1. `version`: of moe4.
JsonValue openapi_document(const std::string& version);

}  // namespace moe4::server
