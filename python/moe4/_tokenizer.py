"""The tokenizer and chat template of a loaded model."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moe4._library import check, library, take_text

if TYPE_CHECKING:
    from moe4._llm import LLM


class Tokenizer:
    """``llm.tokenizer``: the checkpoint's own, without other packages."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens inside the text become their ids."""
        data = text.encode()
        ids, count = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_int64()
        check(library().moe4_model_encode(self._llm.handle, data, len(data), ctypes.byref(ids), ctypes.byref(count)))
        try:
            return ids[: count.value]
        finally:
            library().moe4_free(ids)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        ids = (ctypes.c_int32 * len(token_ids))(*token_ids)
        text = ctypes.c_void_p()
        check(
            library().moe4_model_decode(
                self._llm.handle, ids, len(token_ids), int(skip_special_tokens), ctypes.byref(text)
            )
        )
        return take_text(text)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        **variables: Any,
    ) -> str | list[int]:
        """The prompt that the checkpoint's template makes of messages, as ids or, without ``tokenize``, as text.

        ``variables`` are the template's own, such as ``enable_thinking``.
        """
        context = {**variables, "messages": list(conversation), "add_generation_prompt": add_generation_prompt}
        if tools is not None:
            context["tools"] = list(tools)
        text = ctypes.c_void_p()
        data = json.dumps(context).encode()
        check(library().moe4_model_chat_prompt(self._llm.handle, data, ctypes.byref(text)))
        prompt = take_text(text)
        return self.encode(prompt) if tokenize else prompt
