"""A Llama of about 100,000 parameters and a tokenizer of characters, made in code: nothing is downloaded.

With its supervised start and its rollouts, so that train_trl.py holds what users of TRL write.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sorting import SEPARATOR, Amounts, answer, draw_prompts, number, stream, supervised_rate
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["make_model", "make_tokenizer", "sample", "supervised_start"]


def make_tokenizer(characters: str, end: str) -> PreTrainedTokenizerFast:
    """One token per character. The end pads too, so that every token a policy can draw means something."""
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(characters + end)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=end, eos_token=end, padding_side="left")


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Of random weights, in float32. Its positions are relative, so that padding on the left changes nothing."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def supervised_start(
    tokenizer: PreTrainedTokenizerFast,
    amounts: Amounts,
    seed: int,
    without: frozenset[str],
    tick: Callable[[], None],
) -> LlamaForCausalLM:
    """A policy trained by maximum likelihood on right answers: Adam, its rate rising briefly and then falling to 0."""
    model = make_model(tokenizer, number(seed, "weights"))
    rng = np.random.default_rng(stream(seed, "supervised"))
    optimizer = torch.optim.Adam(model.parameters())
    separator = tokenizer.convert_tokens_to_ids(SEPARATOR)
    for step in range(amounts.supervised_steps):
        for group in optimizer.param_groups:
            group["lr"] = supervised_rate(amounts, step)
        prompts = draw_prompts(amounts.supervised_batch, amounts.most_digits, rng, without)
        batch = _tokens(tokenizer, [prompt + answer(prompt) for prompt in prompts])
        tokens = batch["input_ids"]
        # Nothing is to be learned up to the separator: padding is on the left.
        to_learn = (tokens == separator).cumsum(1) - (tokens == separator).long() > 0
        optimizer.zero_grad()
        model(**batch, labels=tokens.where(to_learn, -100)).loss.backward()
        optimizer.step()
        tick()
    return model


@torch.no_grad()
def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], num_rollouts: int, length: int
) -> list[str]:
    """Rollouts of each prompt, one prompt after the other, drawn as TRL draws them: temperature 1, nothing cut off."""
    batch = _tokens(tokenizer, prompts)
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    tokens = model.generate(**batch, **settings, max_new_tokens=length, num_return_sequences=num_rollouts)
    return tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def _tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Any:
    return tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False)
