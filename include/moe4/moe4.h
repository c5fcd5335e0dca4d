/* The C interface of moe4: one NVFP4 mixture-of-experts layer, created once and applied step by
 * step; and whole models, loaded from a checkpoint's folder (at the end).
 *
 *   moe4_layer* layer = NULL;
 *   if (moe4_layer_create(&desc, &layer) != MOE4_OK) puts(moe4_last_error());
 *   size_t bytes = moe4_layer_workspace_size(layer, max_tokens, MOE4_BF16);
 *   moe4_layer_apply(layer, &args);
 *   moe4_layer_destroy(layer);
 *
 * Functions may be called from any thread. Any number of applies of a layer may be in flight, each
 * with a workspace of its own: on a GPU on any streams; on the CPU they take turns, since all
 * layers of a process share one set of threads. Nothing here throws. Zero is the default of every
 * field; set struct_size and what the layer needs.
 */
#ifndef MOE4_MOE4_H_
#define MOE4_MOE4_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Counts changes of this header that break programs: compare it with moe4_abi(). */
#define MOE4_ABI 1

typedef struct moe4_layer moe4_layer;
typedef struct moe4_selection moe4_selection;

typedef enum moe4_status {
  MOE4_OK = 0,
  MOE4_INTERNAL = 1,    /* a mistake of ours */
  MOE4_USAGE = 2,       /* an argument is wrong */
  MOE4_BAD_INPUT = 3,   /* the weights are bad */
  MOE4_UNAVAILABLE = 4, /* this machine cannot: device, memory, backend */
} moe4_status;

typedef enum moe4_activation {
  MOE4_SILU = 0,       /* silu(gate) * up */
  MOE4_SWIGLU_OAI = 1, /* gate * sigmoid(alpha * gate) * (up + beta), clamped */
  MOE4_GELU_TANH = 2,  /* gelu_tanh(gate) * up */
  MOE4_RELU2 = 3,      /* relu(up)^2, no gate */
} moe4_activation;

/* What hidden states and outputs are. */
typedef enum moe4_dtype {
  MOE4_BF16 = 0,
  MOE4_F16 = 1, /* largest value 65504, to which outputs saturate */
  MOE4_F32 = 2,
} moe4_dtype;

/* Whether a token's output bits depend on what shares its moe4_layer_apply(). */
typedef enum moe4_batch_invariance {
  MOE4_BATCH_DEPENDENT = 0, /* on the number of tokens */
  MOE4_BATCH_INVARIANT_BY_PHASE =
      1,                    /* not among tokens being generated, not among those of prompts */
  MOE4_BATCH_INVARIANT = 2, /* never */
} moe4_batch_invariance;

/* One linear [N, K] as checkpoints have it, dense, read during moe4_layer_create() only. codes,
 * scales and bias are host memory, or all memory of the layer's GPU (weights_on_device). */
typedef struct moe4_linear {
  const uint8_t* codes;  /* [N, K / 2], two E2M1 a byte, low nibble first */
  const uint8_t* scales; /* [N, K / 16], E4M3 */
  float global_scale;    /* multiplies (invert the reciprocal of compressed-tensors); finite */
  float input_scale;     /* calibrated, multiplies, for "fp4-static"; positive, 0: none */
  const uint16_t* bias;  /* [N] bf16, or NULL */
} moe4_linear;

/* A linear of all local experts in one tensor, as engines hold them. Strides count elements of
 * their array from an expert to the next, 0 is dense: gate and up of a w13 [E, 2 I, H / 2] are two
 * of these. All arrays are host memory, or all memory of the layer's GPU (weights_on_device). */
typedef struct moe4_stacked_linear {
  const uint8_t* codes;       /* [E, N, K / 2] */
  const uint8_t* scales;      /* [E, N, K / 16] */
  const float* global_scales; /* [E], as moe4_linear has them */
  const float* input_scales;  /* [E], or NULL: none */
  const uint16_t* bias;       /* [E, N] bf16, or NULL */
  int64_t codes_stride, scales_stride, global_scales_stride, input_scales_stride, bias_stride;
} moe4_stacked_linear;

/* A field out of its range is MOE4_USAGE with a line that names it. */
typedef struct moe4_layer_desc {
  size_t struct_size;        /* sizeof(moe4_layer_desc) */
  int64_t hidden_size;       /* a multiple of 16, up to 2^20 */
  int64_t intermediate_size; /* likewise; of the linears given, before tp_size cuts them */
  int64_t num_experts;       /* up to 2^16 */
  int64_t num_local_experts; /* experts given; num_experts without expert parallelism */
  int64_t top_k;             /* up to num_experts */
  moe4_activation activation;
  float alpha, beta;       /* MOE4_SWIGLU_OAI */
  float limit;             /* clamp of MOE4_SILU and MOE4_SWIGLU_OAI; 0 or infinity for none */
  int weight_on_input;     /* the routing weight multiplies the expert's input */
  const moe4_linear* gate; /* [num_local_experts], N = I, K = H; NULL for MOE4_RELU2 */
  const moe4_linear* up;   /* [num_local_experts], N = I, K = H */
  const moe4_linear* down; /* [num_local_experts], N = H, K = I */
  /* Instead of gate, up and down: */
  const moe4_stacked_linear *stacked_gate, *stacked_up, *stacked_down;
  int reciprocal_scales;     /* global and input scales divide, as compressed-tensors has them */
  const int32_t* expert_map; /* [num_experts] -> index into the linears, or -1: another rank has it;
                                NULL: identity. Host memory */
  int expert_map_per_call;   /* moe4_apply_args has the map instead */
  /* With tp_size > 1 rank tp_rank keeps its share of the intermediate size, cut at whole blocks of
   * 16 (the first ranks hold one more where they do not divide), and the outputs of all ranks add
   * up to the layer's. 0 or 1: the linears are used as given. */
  int tp_size, tp_rank;
  int device;              /* CUDA ordinal; -1: the CPU */
  int weights_on_device;   /* complete when create() is called: it uses a stream of its own */
  const char* backend;     /* "marlin", "cpu", ...; NULL or "auto": by priority */
  const char* activations; /* "bf16", "fp4" (quantised in the kernel), "fp4-static"; NULL: bf16 */
  int batch_invariant;     /* 1: only backends that are not MOE4_BATCH_DEPENDENT */
} moe4_layer_desc;

/* All pointers live on the layer's device, hidden states and output 16-byte aligned. */
typedef struct moe4_apply_args {
  size_t struct_size;        /* sizeof(moe4_apply_args) */
  int64_t num_tokens;        /* T, up to 2^31 - 1; 0 is fine */
  const void* hidden_states; /* [T, H] hidden_dtype */
  const void* topk_ids;      /* [T, k] int32; -1 and ids of other ranks are skipped */
  const float* topk_weights; /* [T, k] */
  void* output;              /* [T, H] hidden_dtype, overwritten */
  void* workspace;           /* any alignment */
  size_t workspace_bytes;
  void* stream; /* cudaStream_t; unused on the CPU */
  /* On the CPU float16 and float32 are taken as they are; GPU backends compute from and to BF16,
   * and get them rounded. */
  moe4_dtype hidden_dtype;
  int ids_are_int64; /* topk_ids is int64 */
  /* [num_experts] as in moe4_layer_desc; with expert_map_per_call only. */
  const int32_t* expert_map;
} moe4_apply_args;

/* A backend's answer about a layer; strings live as long as the selection. */
typedef struct moe4_candidate {
  const char* backend;
  const char* kind;   /* why it is not taken: "device", "shape", "activation-precision", ...;
                         "not-selected": it could, by name only; NULL: it could */
  const char* reason; /* reads well after "since"; NULL: it could */
} moe4_candidate;

/* "0.1.0". */
const char* moe4_version(void);
/* MOE4_ABI of the library. */
int moe4_abi(void);
/* GPU architectures that the library holds code for, "80;90a"; "" without CUDA. */
const char* moe4_gpu_architectures(void);

/* Host threads of all layers of the process, up to 1024; 0: one a core that it may use. Before the
 * first layer; MOE4_USAGE for another number once there is one. */
moe4_status moe4_set_num_threads(int num_threads);

/* Who would take the layer here, without its weights: no linear is looked at and all may be NULL.
 * Fails only for a wrong description; a layer that nobody takes has an empty backend. */
moe4_status moe4_layer_query(const moe4_layer_desc* desc, moe4_selection** selection);
/* The backend that moe4_layer_create() would choose, "" if none, and a sentence on why. */
const char* moe4_selection_backend(const moe4_selection* selection);
const char* moe4_selection_reason(const moe4_selection* selection);
/* All backends in order of priority; NULL from their number on. */
const moe4_candidate* moe4_selection_candidate(const moe4_selection* selection, int index);
/* NULL is fine. */
void moe4_selection_destroy(moe4_selection* selection);

/* May allocate and take seconds. *layer is untouched on failure. On the device it takes the packed
 * size and, while it runs, at most one raw layer more. */
moe4_status moe4_layer_create(const moe4_layer_desc* desc, moe4_layer** layer);

/* Bytes apply() needs for up to max_tokens tokens of that type; 0 outside 1 to 2^31 - 1. */
size_t moe4_layer_workspace_size(const moe4_layer* layer, int64_t max_tokens,
                                 moe4_dtype hidden_dtype);

/* No allocation, no host synchronisation; may be captured in a CUDA graph. The layer's device is
 * current. Refused arguments leave the output untouched. */
moe4_status moe4_layer_apply(const moe4_layer* layer, const moe4_apply_args* args);

/* Name of the backend that was chosen; valid as long as the layer. */
const char* moe4_layer_backend(const moe4_layer* layer);

moe4_batch_invariance moe4_layer_batch_invariance(const moe4_layer* layer);

/* Bytes of packed weights that the layer holds. */
int64_t moe4_layer_weight_bytes(const moe4_layer* layer);

/* The intermediate size that this layer computes: smaller than the one given when tp_size cut it.
 */
int64_t moe4_layer_intermediate_size(const moe4_layer* layer);

/* NULL is fine. */
void moe4_layer_destroy(moe4_layer* layer);

/* ---- Whole models ------------------------------------------------------------------------------
 *
 *   moe4_model* model = NULL;
 *   moe4_generation* generation = NULL;
 *   moe4_model_load("FOLDER", NULL, &model);
 *   moe4_generation_begin(model, "[{\"prompt\": \"Hello\", \"max_tokens\": 8}]", &generation);
 *   for (int running = 1; running;) moe4_generation_step(generation, on_text, user, &running);
 *   moe4_generation_results(generation, &json);
 *
 * Texts are UTF-8. A char** result is the caller's, for moe4_free(). Any thread may call; calls
 * that compute take turns, and generations of one model share its steps. */
typedef struct moe4_model moe4_model;
typedef struct moe4_generation moe4_generation;

/* As the flags of moe4 serve; zero and NULL are its defaults. */
typedef struct moe4_model_options {
  size_t struct_size;      /* sizeof(moe4_model_options) */
  const char* device;      /* "cpu", "cuda" */
  const char* dtype;       /* "bfloat16", "float32" */
  const char* backend;     /* of the routed experts */
  const char* activations; /* "auto", "bf16", "fp4", "fp4-static" */
  int fp8_activations;
  int batch_invariant;
  int no_prefix_caching;
  int num_threads; /* of this model */
  int64_t cpu_moe;
  int64_t max_model_len;
  int64_t max_num_seqs;
  int64_t max_num_batched_tokens;
  int64_t kv_cache_memory_bytes;
  double memory_utilization;
  void (*progress)(void* user, int64_t done, int64_t total); /* bytes; or NULL */
  void* user;                                                /* of progress */
} moe4_model_options;

/* `options` may be NULL. */
moe4_status moe4_model_load(const char* path, const moe4_model_options* options,
                            moe4_model** model);
/* JSON, valid as long as the model: model, model_type, vocab_size, max_model_len, max_num_seqs,
 * stop_token_ids, notes, and plan, as moe4 run --json has it. */
const char* moe4_model_info(const moe4_model* model);
/* No generation of it is left. NULL is fine. */
void moe4_model_destroy(moe4_model* model);

/* *ids is the caller's, for moe4_free(). */
moe4_status moe4_model_encode(const moe4_model* model, const char* text, size_t bytes,
                              int32_t** ids, int64_t* num_ids);
moe4_status moe4_model_decode(const moe4_model* model, const int32_t* ids, int64_t num_ids,
                              int skip_special_tokens, char** text);
/* The prompt of a chat: `context_json` is an object of the template's variables, messages among
 * them; add_generation_prompt is true unless it says otherwise. */
moe4_status moe4_model_chat_prompt(const moe4_model* model, const char* context_json, char** text);

/* `requests_json`: an array of objects with the fields of POST /v1/completions (docs/serving.md).
 * A field that there is not is MOE4_USAGE, and so are those for servers: model, stream, echo,
 * logprobs. Without max_tokens 16, without a seed a random one. */
moe4_status moe4_generation_begin(moe4_model* model, const char* requests_json,
                                  moe4_generation** generation);
/* One piece of text of answer `index`, counted over all requests; 0 ends that answer. */
typedef int (*moe4_on_text)(void* user, int64_t index, const char* text, size_t bytes);
/* Computes one step, hands out the text that it made certain (`on_text` may be NULL, and must not
 * call this library), and says whether anything is left to do. */
moe4_status moe4_generation_step(moe4_generation* generation, moe4_on_text on_text, void* user,
                                 int* running);
/* When nothing is left: an array, one object a request, {"prompt_token_ids", "outputs": [{"text",
 * "token_ids", "finish_reason": "stop" or "length", "stop_reason", "cached_tokens",
 * "prefill_seconds", "decode_seconds"}]}. Fails with what ended an answer before its time. */
moe4_status moe4_generation_results(moe4_generation* generation, char** json);
/* Ends what is still running. NULL is fine. */
void moe4_generation_destroy(moe4_generation* generation);

/* Perplexity of rows of token ids, each by itself; row r has row_lengths[r] of `ids`. JSON:
 * perplexity, mean_log_likelihood, predictions, seconds. */
moe4_status moe4_model_evaluate(moe4_model* model, const int32_t* ids, const int64_t* row_lengths,
                                int64_t num_rows, char** json);

/* What moe4 plan --json and moe4 inspect --json print; weights are not loaded. Of `options` device,
 * backend, activations, fp8_activations and batch_invariant count, and device may be one that is
 * not here: "sm_90". It may be NULL. */
moe4_status moe4_plan(const char* path, const moe4_model_options* options, char** json);
moe4_status moe4_inspect(const char* path, int lint, char** json);

/* The moe4 program; the exit status. Installs handlers of signals. */
int moe4_main(int argc, char** argv);

/* NULL is fine. */
void moe4_free(void* p);

/* One line about this thread's last failure. */
const char* moe4_last_error(void);

#ifdef __cplusplus
}
#endif

#endif /* MOE4_MOE4_H_ */
