// The endpoints, one function each. All throw ApiError or moe4::Error before they touch the
// exchange, or answer through it.
#pragma once

#include <string>

#include "server/serving.h"

namespace moe4::server {

class ApiError;

void complete(Serving& serving, const Call& call);              // POST /v1/completions
void complete_chat(Serving& serving, const Call& call);         // POST /v1/chat/completions
void create_response(Serving& serving, const Call& call);       // POST /v1/responses
void create_message(Serving& serving, const Call& call);        // POST /v1/messages
void count_message_tokens(Serving& serving, const Call& call);  // POST /v1/messages/count_tokens
void tokenize(Serving& serving, const Call& call);              // POST /tokenize
void detokenize(Serving& serving, const Call& call);            // POST /detokenize
void apply_template(Serving& serving, const Call& call);        // POST /apply-template
void list_models(Serving& serving, const Call& call);           // GET /v1/models
void describe_model(Serving& serving, const Call& call);        // GET /v1/models/NAME
void show_page(Serving& serving, const Call& call);             // GET /
void health(Serving& serving, const Call& call);                // GET /health
void ping(Serving& serving, const Call& call);                  // GET or POST /ping
void version(Serving& serving, const Call& call);               // GET /version
void metrics(Serving& serving, const Call& call);               // GET /metrics
void properties(Serving& serving, const Call& call);            // GET /props
void slots(Serving& serving, const Call& call);                 // GET /slots
void plan(Serving& serving, const Call& call);                  // GET /plan
void openapi(Serving& serving, const Call& call);               // GET /openapi.json

/// An error as clients of /v1/messages know it.
std::string anthropic_body(const ApiError& error);

}  // namespace moe4::server
