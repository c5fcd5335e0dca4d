"""SGLang's plug-in: ``sglang serve --model-path MODEL --moe-runner-backend moe4`` runs NVFP4 experts on moe4.

Entry point ``moe4`` of ``sglang.srt.plugins``. It makes names known and nothing else: what it needs of SGLang is loaded
where one of them is asked for. ``moe4_bf16``, ``moe4_fp4`` and ``moe4_fp4_static`` say how activations run.
"""

from __future__ import annotations

import logging

_registered = False


def register() -> None:
    """Adds moe4 to SGLang's runners; does nothing but warn where they are not as moe4 knows them."""
    global _registered
    if _registered:
        return
    _registered = True
    try:
        from moe4.sglang import hooks

        hooks.register()
    except Exception as error:  # a user's start must not fail for an SGLang that changed
        logging.getLogger("sglang.moe4").warning("moe4 leaves this SGLang alone: %s: %s", type(error).__name__, error)
