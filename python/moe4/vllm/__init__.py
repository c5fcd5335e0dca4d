"""vLLM's plug-in: NVFP4 experts of ``vllm serve MODEL`` run on moe4 where this package is installed.

Entry point ``moe4`` of ``vllm.general_plugins``. What moe4 does not take, vLLM's own classes get, and the log says why.
Options: ``--additional-config '{"moe4": {"enabled": true, "activations": "auto", "backend": "auto"}}'``.
"""

from __future__ import annotations

import warnings

_registered = False


def register() -> None:
    """Puts moe4's methods into vLLM's quantization configs; does nothing but warn where they do not fit."""
    global _registered
    if _registered:
        return
    _registered = True
    try:
        from moe4.vllm import configs

        configs.register()
    except Exception as error:  # a user's start must not fail for a vLLM that changed
        warnings.warn(f"moe4 leaves this vLLM alone: {type(error).__name__}: {error}", stacklevel=2)
