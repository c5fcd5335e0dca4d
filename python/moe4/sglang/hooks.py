"""Where moe4 enters SGLang: a name among the MoE runners, and what it stands for where it was asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sglang.srt.arg_groups.choices import MOE_RUNNER_BACKEND_CHOICES, add_moe_runner_backend_choices
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_exec, get_flags, get_spec, publish

logger = logging.getLogger("sglang.moe4")

#: Names of the runner, and in which precision activations run.
NAMES = {"moe4": "auto", "moe4_bf16": "bf16", "moe4_fp4": "fp4", "moe4_fp4_static": "fp4-static"}
_PUBLISH = f"{publish.__module__}.{publish.__name__}"
_INITIALIZE = "sglang.srt.layers.moe.utils.initialize_moe_config"


def register() -> None:
    """``--moe-runner-backend moe4``. Cheap: none of SGLang's layers is imported before a start asks for it."""
    HookRegistry.register(_PUBLISH, _published, HookType.AFTER)
    add_moe_runner_backend_choices([name for name in NAMES if name not in MOE_RUNNER_BACKEND_CHOICES])


def _published(result: Any, *args: Any, **kwargs: Any) -> None:
    """A process has its settings; layers come later, if it has any."""
    try:
        if _asked():
            HookRegistry.register(_INITIALIZE, _initialize, HookType.AROUND)
            HookRegistry.apply_hooks()
    except Exception as error:  # processes without layers need not know of runners
        logger.debug("moe4: %s: %s", type(error).__name__, error)


def _asked() -> list[str]:
    """The names of moe4's runner that the model and its draft ask for."""
    return [n for n in (get_exec().moe.moe_runner_backend, get_spec().speculative_moe_runner_backend) if n in NAMES]


def _initialize(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Before SGLang resolves the names of its runners."""
    from sglang.srt.layers.moe import utils

    asked = _asked()
    if not asked:
        return original(*args, **kwargs)
    reason = None
    try:
        from moe4.sglang import methods

        methods.install()
    except Exception as error:  # a user's start must not fail for an SGLang that changed
        reason = f"{type(error).__name__}: {error}"
        for name in asked:
            try:
                utils.resolve_moe_runner_backend(name)
            except ValueError:
                utils.register_moe_runner_backend_name(name)
    result = original(*args, **kwargs)
    if get_spec().speculative_moe_runner_backend is None:  # drafts often have experts of another format
        get_flags().moe.speculative_runner_backend = utils.MoeRunnerBackend.AUTO
    if reason is not None:
        leave(f"this SGLang is not as moe4 knows it: {reason}")
    return result


def leave(reason: str) -> None:
    """SGLang chooses its runners from here on, as if moe4 had not been asked for."""
    from sglang.srt.layers.moe.utils import MoeRunnerBackend

    logger.warning("moe4 leaves the routed experts to SGLang: %s", reason)
    flags = get_flags().moe
    for name in ("runner_backend", "speculative_runner_backend"):
        if getattr(getattr(flags, name), "value", None) in NAMES:
            setattr(flags, name, MoeRunnerBackend.AUTO)
