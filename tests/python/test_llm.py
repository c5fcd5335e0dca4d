"""Whole models as users call them: the calls of docs/python.md, and what they refuse."""

import gc
import subprocess
import sys
import weakref

import moe4
import pytest

GREEDY = moe4.SamplingParams(temperature=0, max_tokens=24)
PROMPT = "The President of the United States"


def test_generate_gives_the_text_of_the_program(llm, checkpoint):
    text = llm.generate(PROMPT, GREEDY)[0].outputs[0].text
    program = [sys.executable, "-m", "moe4", "run", str(checkpoint), "-p", PROMPT, "-n", "24"]
    run = subprocess.run([*program, "--temperature", "0", "-q"], capture_output=True, text=True, check=True)
    assert run.stdout == text + "\n"
    assert text


def test_answers_come_in_the_order_of_prompts_of_every_form(llm):
    ids = llm.tokenizer.encode(PROMPT)
    prompts = [PROMPT, "A", ids, {"prompt": "A"}, {"prompt_token_ids": ids}]
    outputs = llm.generate(prompts, GREEDY)
    texts = [output.outputs[0].text for output in outputs]
    assert texts == [texts[0], texts[1], texts[0], texts[1], texts[0]]
    assert texts[0] != texts[1]
    assert [output.prompt for output in outputs] == [PROMPT, "A", None, "A", None]
    assert outputs[2].prompt_token_ids == ids
    assert llm.generate(ids, GREEDY)[0].outputs[0].text == texts[0]
    first = outputs[0].outputs[0]
    assert llm.tokenizer.decode(first.token_ids) == first.text
    assert first.finish_reason in ("length", "stop")


def test_sampling_repeats_with_a_seed_and_n_answers_differ(llm):
    params = moe4.SamplingParams(temperature=1.5, seed=7, n=3, max_tokens=16, ignore_eos=True)
    texts = [o.text for o in llm.generate(PROMPT, params)[0].outputs]
    assert len(set(texts)) > 1
    assert [o.text for o in llm.generate(PROMPT, params)[0].outputs] == texts
    each = [moe4.SamplingParams(temperature=0, max_tokens=n) for n in (1, 5)]
    outputs = llm.generate([PROMPT, PROMPT], each)
    assert [len(o.outputs[0].token_ids) for o in outputs] == [1, 5]


def test_stop_ends_before_the_text_and_says_so(llm):
    whole = llm.generate(PROMPT, GREEDY)[0].outputs[0].text
    stop = whole[len(whole) // 2 :][:3]
    params = moe4.SamplingParams(temperature=0, max_tokens=24, stop=[stop])
    output = llm.generate(PROMPT, params)[0].outputs[0]
    assert output.text == whole[: whole.index(stop)]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)


def test_structured_outputs_hold(llm):
    params = moe4.SamplingParams(temperature=0, structured_outputs={"choice": ["yes", "no"]}, max_tokens=8)
    assert llm.generate(PROMPT, params)[0].outputs[0].text in ("yes", "no")


def test_chat_is_the_template_and_generate(llm):
    messages = [{"role": "user", "content": "Hi"}]
    prompt = llm.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert "Hi" in prompt
    ids = llm.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert ids == llm.tokenizer.encode(prompt)
    chat = llm.chat(messages, GREEDY)
    assert chat[0].outputs[0].text == llm.generate(prompt, GREEDY)[0].outputs[0].text
    assert len(llm.chat([messages, messages], GREEDY)) == 2


def test_a_stream_adds_up_and_may_be_left(llm):
    whole = llm.generate(PROMPT, GREEDY)[0].outputs[0].text
    pieces = list(llm.stream(PROMPT, GREEDY))
    assert "".join(pieces) == whole
    assert len(pieces) > 1
    for piece in llm.stream(PROMPT, moe4.SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)):
        assert piece
        break
    assert llm.generate(PROMPT, GREEDY)[0].outputs[0].text == whole
    messages = [{"role": "user", "content": "Hi"}]
    assert "".join(llm.stream(messages, GREEDY)) == llm.chat(messages, GREEDY)[0].outputs[0].text


def test_load_generate_and_stream_generate_of_mlx(checkpoint):
    model, tokenizer = moe4.load(checkpoint, max_model_len=128, max_num_seqs=2)
    text = moe4.generate(model, tokenizer, PROMPT, max_tokens=8, temperature=0)
    assert "".join(moe4.stream_generate(model, tokenizer, PROMPT, max_tokens=8, temperature=0)) == text
    gone = weakref.ref(model)
    del model, tokenizer
    gc.collect()
    assert gone() is None


def test_max_tokens_none_fills_the_context(checkpoint):
    with_room = moe4.LLM(checkpoint, max_model_len=64, max_num_seqs=1)
    params = moe4.SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
    output = with_room.generate(PROMPT, params)[0]
    assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == 64
    stream = with_room.stream(PROMPT, params)
    next(stream)
    with_room.close()
    with pytest.raises(moe4.UsageError, match="the model was closed"):
        next(stream)
    with pytest.raises(moe4.UsageError, match="NULL"):
        with_room.generate(PROMPT)


def test_evaluate_is_a_perplexity(llm, checkpoint):
    rows = [llm.tokenizer.encode(PROMPT), llm.tokenizer.encode("The United States of America")]
    result = moe4.evaluate(llm, rows)
    assert result["predictions"] == sum(len(row) - 1 for row in rows)
    assert 1 < result["perplexity"] < 1e4
    assert moe4.evaluate(checkpoint, rows, max_num_seqs=1)["perplexity"] == result["perplexity"]


def test_plan_names_backends_and_reasons_for_a_device_that_is_not_here(checkpoint):
    plan = moe4.plan(checkpoint, device="sm_90")
    group = plan["groups"][0]
    assert group["backend"] in ("hopper", "marlin")
    reasons = {c["backend"]: c for c in group["candidates"]}
    assert "CPU" in reasons["cpu"]["reason"]
    assert moe4.plan(checkpoint)["groups"][0]["backend"] == "cpu"


def test_inspect_counts_and_lints(checkpoint):
    report = moe4.inspect(checkpoint)
    assert report["parameters"] > report["active_parameters"] > 0
    assert report["linted"] is False
    assert moe4.inspect(checkpoint, lint=True)["linted"] is True


def test_errors_have_the_librarys_sentences(llm, checkpoint, tmp_path):
    with pytest.raises(moe4.BadInputError, match="nowhere"):
        moe4.LLM(tmp_path / "nowhere")
    with pytest.raises(moe4.UsageError, match="unknown MoE backend 'nonsense'"):
        moe4.LLM(checkpoint, backend="nonsense")
    with pytest.raises(moe4.UnavailableError):
        moe4.LLM(checkpoint, backend="hopper")
    with pytest.raises(ValueError, match="temperature"):
        llm.generate(PROMPT, moe4.SamplingParams(temperature=-1))
    with pytest.raises(moe4.UsageError, match="request 1: prompt: .*found an empty list"):
        llm.generate([PROMPT, []], GREEDY)
    with pytest.raises(moe4.UsageError, match="maximum context length"):
        llm.generate(PROMPT, moe4.SamplingParams(max_tokens=100000))
    with pytest.raises(moe4.UsageError, match="2 sampling parameters for 1 prompts"):
        llm.generate([PROMPT], [GREEDY, GREEDY])
    with pytest.raises(moe4.UsageError, match="two tokens"):
        llm.evaluate([[1]])
    with pytest.raises(TypeError):
        moe4.SamplingParams(temprature=1)


def test_the_program_reports_its_version_and_its_status():
    run = subprocess.run([sys.executable, "-m", "moe4", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"moe4 {moe4.__version__}\n"
    wrong = subprocess.run([sys.executable, "-m", "moe4", "plan", "/nowhere"], capture_output=True, text=True)
    assert wrong.returncode == 3
    assert wrong.stderr.startswith("error: ")


def test_importing_brings_no_other_package():
    code = "import moe4, sys; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
