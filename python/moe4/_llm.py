"""Whole models: load a checkpoint, generate from prompts and chats, stream."""

from __future__ import annotations

import ctypes
import json
import os
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from moe4._errors import UsageError
from moe4._library import ModelOptions, OnText, Progress, check, encoded, library, take_text
from moe4._tokenizer import Tokenizer

Prompt = str | Sequence[int] | Mapping[str, Any]
Messages = Sequence[Mapping[str, Any]]


@dataclass
class SamplingParams:
    """How tokens are chosen and when they end, by vLLM's names.

    None is the checkpoint's ``generation_config.json``. Without a ``seed`` every answer has one of its own;
    ``max_tokens`` None is as many as fit. ``structured_outputs`` is a mapping as docs/structured_output.md has it.
    """

    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logit_bias: dict[int, float] | None = None
    structured_outputs: dict[str, Any] | None = None

    def request(self, prompt: str | list[int], room: int | None) -> dict[str, Any]:
        """The fields of a request; ``room``: most tokens where ``max_tokens`` is None."""
        request = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        if self.logit_bias is not None:
            request["logit_bias"] = {str(token): bias for token, bias in self.logit_bias.items()}
        if self.max_tokens is None and room is not None:
            request["max_tokens"] = room
        request["prompt"] = prompt
        return request


@dataclass
class CompletionOutput:
    """One answer. ``stop_reason``: the token or the text that ended it; None at the model's length."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    stop_reason: int | str | None = None
    cached_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass
class RequestOutput:
    """The answers to one prompt."""

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = True


def checkpoint_path(model: str | os.PathLike[str]) -> bytes:
    """A folder as it is; of ``org/name`` that is no folder, the repository in Hugging Face's cache if it is there."""
    text = os.fspath(model)
    if not os.path.exists(text) and re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        home = os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
        cache = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
        cached = cache / ("models--" + text.replace("/", "--"))
        if cached.is_dir():
            text = str(cached)
    return os.fsencode(text)


def model_options(**options: Any) -> ModelOptions:
    """The C structure; None is the library's default."""
    result = ModelOptions(struct_size=ctypes.sizeof(ModelOptions))
    for name, value in options.items():
        if value is not None:
            setattr(result, name, encoded(value) if isinstance(value, str) else value)
    return result


class LLM:
    """A checkpoint loaded for generation, on the CPU or with ``device="cuda"`` on a GPU.

    Options are the flags of ``moe4 serve``; None is its default. ``progress(done, total)`` is called with bytes while
    the checkpoint loads.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str = "cpu",
        dtype: str = "bfloat16",
        backend: str = "auto",
        activations: str = "auto",
        fp8_activations: bool = False,
        batch_invariant: bool = False,
        cpu_moe: int = 0,
        num_threads: int = 0,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        kv_cache_memory_bytes: int | None = None,
        gpu_memory_utilization: float | None = None,
        enable_prefix_caching: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        options = model_options(
            device=device,
            dtype=dtype,
            backend=backend,
            activations=activations,
            fp8_activations=fp8_activations,
            batch_invariant=batch_invariant,
            no_prefix_caching=not enable_prefix_caching,
            num_threads=num_threads,
            cpu_moe=cpu_moe,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            kv_cache_memory_bytes=kv_cache_memory_bytes,
            memory_utilization=gpu_memory_utilization,
        )
        if progress is not None:
            options.progress = Progress(lambda _, done, total: progress(done, total))
        handle = ctypes.c_void_p()
        check(library().moe4_model_load(checkpoint_path(model), ctypes.byref(options), ctypes.byref(handle)))
        self.handle = handle
        self._destroy = weakref.finalize(self, library().moe4_model_destroy, handle)
        #: What was loaded and chosen: model_type, vocab_size, max_model_len, stop_token_ids, notes, plan.
        self.info: dict[str, Any] = json.loads(library().moe4_model_info(handle).decode())
        self.tokenizer = Tokenizer(self)
        self._generations: weakref.WeakSet[_Generation] = weakref.WeakSet()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Answers to one prompt or several, which share the model's steps, in the order of the prompts.

        A prompt is text, a list of token ids, or a mapping with ``prompt`` or ``prompt_token_ids``.
        """
        items = _prompts(prompts)
        params = _params_of(sampling_params, len(items))
        generation = _Generation(self, [p.request(i, self._room(p, i)) for i, p in zip(items, params)])
        while generation.step() is not None:
            pass
        return generation.results(items)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answers to one conversation or several, put into the checkpoint's chat template first."""
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else list(messages)
        prompts = [
            self.tokenizer.apply_chat_template(
                conversation,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **(chat_template_kwargs or {}),
            )
            for conversation in conversations
        ]
        return self.generate(prompts, sampling_params)

    def stream(self, prompt: Prompt | Messages, sampling_params: SamplingParams | None = None) -> Iterator[str]:
        """The answer to one prompt, or to one conversation, piece by piece.

        Leaving the loop ends the answer.
        """
        if isinstance(prompt, Sequence) and not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
            prompt = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        (item,) = _prompts(prompt)
        params = sampling_params or SamplingParams()
        if params.n != 1:
            raise UsageError(f"n is {params.n}: a stream has one answer")
        generation = _Generation(self, [params.request(item, self._room(params, item))])
        try:
            while (pieces := generation.step()) is not None:
                yield from pieces
            generation.results([item])  # raises what ended it before its time
        finally:
            generation.close()

    def evaluate(self, tokens: Sequence[Sequence[int]]) -> dict[str, Any]:
        """See :func:`moe4.evaluate`."""
        lengths = (ctypes.c_int64 * len(tokens))(*(len(row) for row in tokens))
        flat = [int(token) for row in tokens for token in row]
        ids = (ctypes.c_int32 * max(len(flat), 1))(*flat)
        text = ctypes.c_void_p()
        check(library().moe4_model_evaluate(self.handle, ids, lengths, len(tokens), ctypes.byref(text)))
        return json.loads(take_text(text))

    def close(self) -> None:
        """Frees the model now rather than with its last reference, and ends what it generates."""
        for generation in self._generations:
            generation.close()
        self._destroy()
        self.handle = ctypes.c_void_p()

    def _room(self, params: SamplingParams, item: str | list[int]) -> int | None:
        if params.max_tokens is not None:
            return None
        length = len(self.tokenizer.encode(item)) if isinstance(item, str) else len(item)
        return max(self.info["max_model_len"] - length, 0)


class _Generation:
    """Requests on their way through a model's engine."""

    def __init__(self, llm: LLM, requests: list[dict[str, Any]]) -> None:
        self._llm = llm  # stays until this is gone
        self._handle = ctypes.c_void_p()
        self._pieces: list[str] = []
        # An exception of Python cannot pass through C: what can fail is left to step().
        self._on_text = OnText(self._take)
        data = json.dumps(requests).encode()
        check(library().moe4_generation_begin(llm.handle, data, ctypes.byref(self._handle)))
        self.close = weakref.finalize(self, library().moe4_generation_destroy, self._handle)
        llm._generations.add(self)

    def _take(self, _user: int, _index: int, text: int, size: int) -> int:
        self._pieces.append(ctypes.string_at(text, size).decode(errors="replace"))
        return 1

    def _check_open(self) -> None:
        if not self.close.alive:
            raise UsageError("the model was closed")

    def step(self) -> list[str] | None:
        """One step's text; None when nothing is left."""
        self._check_open()
        running = ctypes.c_int()
        check(library().moe4_generation_step(self._handle, self._on_text, None, ctypes.byref(running)))
        pieces, self._pieces = self._pieces, []
        return pieces if running.value or pieces else None

    def results(self, items: list[str | list[int]]) -> list[RequestOutput]:
        self._check_open()
        text = ctypes.c_void_p()
        try:
            check(library().moe4_generation_results(self._handle, ctypes.byref(text)))
        finally:
            self.close()
        return [
            RequestOutput(
                prompt=item if isinstance(item, str) else None,
                prompt_token_ids=result["prompt_token_ids"],
                outputs=[CompletionOutput(index=i, **output) for i, output in enumerate(result["outputs"])],
            )
            for item, result in zip(items, json.loads(take_text(text)))
        ]


def _prompt(prompt: Prompt) -> str | list[int]:
    if isinstance(prompt, Mapping):
        prompt = prompt["prompt_token_ids"] if "prompt_token_ids" in prompt else prompt["prompt"]
    return prompt if isinstance(prompt, str) else [int(token) for token in prompt]


def _prompts(prompts: Prompt | Sequence[Prompt]) -> list[str | list[int]]:
    one = isinstance(prompts, (str, Mapping)) or (
        len(prompts) > 0 and not isinstance(prompts[0], (str, Mapping, Sequence)) and not hasattr(prompts[0], "__len__")
    )
    return [_prompt(prompts)] if one else [_prompt(prompt) for prompt in prompts]


def _params_of(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise UsageError(f"{len(params)} sampling parameters for {count} prompts: give one, or one a prompt")
    return list(params)


def load(model: str | os.PathLike[str], **options: Any) -> tuple[LLM, Tokenizer]:
    """A model and its tokenizer, as mlx-lm has it; ``options`` are those of :class:`LLM`."""
    llm = LLM(model, **options)
    return llm, llm.tokenizer


def generate(model: LLM, tokenizer: Tokenizer | None, prompt: Prompt, max_tokens: int = 256, **options: Any) -> str:
    """The text that follows a prompt; ``options`` are those of :class:`SamplingParams`."""
    return model.generate(prompt, SamplingParams(max_tokens=max_tokens, **options))[0].outputs[0].text


def stream_generate(
    model: LLM, tokenizer: Tokenizer | None, prompt: Prompt, max_tokens: int = 256, **options: Any
) -> Iterator[str]:
    """The same piece by piece."""
    return model.stream(prompt, SamplingParams(max_tokens=max_tokens, **options))
