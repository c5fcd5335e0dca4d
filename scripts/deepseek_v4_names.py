"""What transformers calls the tensors of DeepSeek-V4 -> what the released files do: expressions, applied in this order."""

V4_NAMES = [(r"^model\.", ""), (r"^embed_tokens", "embed"), (r"^lm_head", "head"), (r"hc_head\.hc_", "hc_head_"),
            (r"(attn|ffn)_hc\.", r"hc_\1_"), (r"input_layernorm", "attn_norm"), (r"post_attention_layernorm", "ffn_norm"),
            (r"compressor\.indexer\.scorer\.", "indexer."), (r"compressor\.indexer\.q_b_proj", "indexer.wq_b"),
            (r"compressor\.indexer\.", "indexer.compressor."), (r"compressor\.kv_norm", "compressor.norm"),
            (r"compressor\.kv_proj", "compressor.wkv"), (r"compressor\.gate_proj", "compressor.wgate"), (r"position_bias", "ape"),
            (r"self_attn", "attn"), (r"sinks", "attn_sink"), (r"q_a_norm", "q_norm"), (r"q_a_proj", "wq_a"), (r"q_b_proj", "wq_b"),
            (r"kv_proj", "wkv"), (r"o_a_proj", "wo_a"), (r"o_b_proj", "wo_b"), (r"\.mlp\.", ".ffn."), (r"e_score_correction_bias", "bias"),
            (r"shared_experts\.gate_proj", "shared_experts.w1"), (r"shared_experts\.up_proj", "shared_experts.w3"),
            (r"shared_experts\.down_proj", "shared_experts.w2")]
