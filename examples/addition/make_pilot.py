"""A real pilot from a small policy: train a numpy network to add, sample it on held-out sums, count the successes.

The policy is autoregressive. Given a prompt such as "47+386=" it writes the answer one character at a time, each drawn
from a softmax at temperature 1. Underneath is a multilayer perceptron on a fixed window: the two operands, each
right-justified in four slots ("+" and "=" would never move, so they take no slot), then the answer so far. It is
pretrained by teacher forcing, briefly and on few sums, and so ends up as policies do before reinforcement learning:
sure of some prompts, hopeless on others, in between on the rest. The verifier is an exact string match.

Left out on purpose: attention and recurrence, because the window is short enough to read whole and a perceptron's
gradients fit on a page; any reinforcement learning, because a pilot is what one samples before it; and any selection
of prompts or completions, because the counts should be what the policy drew. Its size, training set and steps were
chosen to leave it partly competent; the counts follow from them and the seed. numpy is the only requirement.

    python examples/addition/make_pilot.py --help
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

# Double precision costs little at this size, and rounding then has less say in which counts come out.
Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int64]
Params = dict[str, Floats]

HERE = Path(__file__).resolve().parent
END, PAD = ".", " "
VOCABULARY = "0123456789" + END + PAD
MAX_DIGITS = 4
ANSWER_LENGTH = MAX_DIGITS + 2  # five digits and END
PROMPT_SLOTS = 2 * MAX_DIGITS
WINDOW = PROMPT_SLOTS + ANSWER_LENGTH - 1  # nothing is predicted after the last character, so it is never read
TEMPERATURE = 1.0
TRAINING_SUMS, BATCH, HIDDEN, LEARNING_RATE = 6500, 128, 96, 0.01


def operands(prompt: str) -> list[str]:
    return prompt.rstrip("=").split("+")


def encode(prompt: str, answer: str = "") -> list[int]:
    """The window the policy reads: both operands of a prompt ("47+386=") and as much of the answer as is written."""
    left, right = operands(prompt)
    text = left.rjust(MAX_DIGITS, PAD) + right.rjust(MAX_DIGITS, PAD) + answer.ljust(ANSWER_LENGTH - 1, PAD)
    return [VOCABULARY.index(character) for character in text]


def solution(prompt: str) -> str:
    return f"{sum(map(int, operands(prompt)))}{END}"


def verify(prompt: str, completion: str) -> bool:
    """Exact match, END included: an answer that does not stop is wrong."""
    return completion == solution(prompt)


def draw_sum(rng: np.random.Generator) -> str:
    """A prompt whose operands have one to four digits each, every length as likely as the next."""
    lengths = rng.integers(1, MAX_DIGITS + 1, size=2)
    left, right = (int(rng.integers(0 if digits == 1 else 10 ** (digits - 1), 10**digits)) for digits in lengths)
    return f"{left}+{right}="


def draw_problems(prompts: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Distinct held-out prompts, and training prompts with repeats so that short sums keep their share."""
    held_out: dict[str, None] = {}
    while len(held_out) < prompts:
        held_out[draw_sum(rng)] = None
    # "3+9=" in training would give "9+3=" away, so both orders are held out.
    swapped = {"{1}+{0}=".format(*operands(prompt)) for prompt in held_out}
    training: list[str] = []
    while len(training) < TRAINING_SUMS:
        prompt = draw_sum(rng)
        if prompt not in held_out and prompt not in swapped:
            training.append(prompt)
    return list(held_out), training


def initialize(rng: np.random.Generator, hidden: int = HIDDEN) -> Params:
    sizes = [WINDOW * len(VOCABULARY), hidden, hidden, len(VOCABULARY)]
    # The first layer's input is one-hot: only WINDOW of its entries are ever on, and those set the scale.
    fan_in = [WINDOW, hidden, hidden]
    weights = {f"w{i + 1}": rng.standard_normal(sizes[i : i + 2]) / np.sqrt(fan_in[i]) for i in range(3)}
    return weights | {f"b{i}": np.zeros(sizes[i]) for i in (1, 2, 3)}


def forward(params: Params, windows: Tokens) -> tuple[Floats, Floats, Floats, Floats]:
    """The one-hot input, both hidden layers and the log-probabilities of the next character."""
    inputs = np.eye(len(VOCABULARY))[windows].reshape(len(windows), -1)
    first = np.tanh(inputs @ params["w1"] + params["b1"])
    second = np.tanh(first @ params["w2"] + params["b2"])
    logits = second @ params["w3"] + params["b3"]
    logits -= logits.max(axis=1, keepdims=True)
    return inputs, first, second, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def loss_and_gradients(params: Params, windows: Tokens, targets: Tokens) -> tuple[float, Params]:
    """Mean cross-entropy of the target characters and its gradient, by backpropagation."""
    inputs, first, second, log_probs = forward(params, windows)
    rows = np.arange(len(targets))
    d_logits = np.exp(log_probs)
    d_logits[rows, targets] -= 1
    d_logits /= len(targets)
    d_second = (d_logits @ params["w3"].T) * (1 - second**2)
    d_first = (d_second @ params["w2"].T) * (1 - first**2)
    gradients = {"w1": inputs.T @ d_first, "w2": first.T @ d_second, "w3": second.T @ d_logits}
    gradients |= {"b1": d_first.sum(axis=0), "b2": d_second.sum(axis=0), "b3": d_logits.sum(axis=0)}
    return -float(log_probs[rows, targets].mean()), gradients


def train(prompts: list[str], steps: int, rng: np.random.Generator) -> tuple[Params, float]:
    """Teacher forcing with Adam and a linearly falling rate; returns the policy and its last 100 steps' mean loss."""
    pairs = [(encode(p, a[:i]), VOCABULARY.index(a[i])) for p in prompts for a in [solution(p)] for i in range(len(a))]
    windows, targets = np.array([w for w, _ in pairs]), np.array([t for _, t in pairs])
    params = initialize(rng)
    mean = {name: np.zeros_like(value) for name, value in params.items()}
    square = {name: np.zeros_like(value) for name, value in params.items()}
    losses: list[float] = []
    for step in range(1, steps + 1):
        batch = rng.integers(len(targets), size=BATCH)
        loss, gradients = loss_and_gradients(params, windows[batch], targets[batch])
        losses.append(loss)
        rate = LEARNING_RATE * (1 - (step - 1) / steps)
        for name, gradient in gradients.items():
            mean[name] += 0.1 * (gradient - mean[name])
            square[name] += 0.001 * (gradient**2 - square[name])
            spread = np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8
            params[name] -= rate / (1 - 0.9**step) * mean[name] / spread
        if step % 250 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {np.mean(losses[-100:]):.3f}", file=sys.stderr, flush=True)
    return params, float(np.mean(losses[-100:]))


def sample(params: Params, prompt: str, rollouts: int, rng: np.random.Generator) -> list[str]:
    """Independent completions of one prompt, each up to and including END, or cut at the longest answer."""
    windows = np.tile(np.array(encode(prompt)), (rollouts, 1))
    written = np.empty((rollouts, ANSWER_LENGTH), dtype=np.int64)
    for position in range(ANSWER_LENGTH):
        log_probs = forward(params, windows)[-1]
        # The largest of the log-probabilities plus Gumbel noise is an exact draw from the softmax.
        written[:, position] = (log_probs / TEMPERATURE + rng.gumbel(size=log_probs.shape)).argmax(axis=1)
        if position < ANSWER_LENGTH - 1:
            windows[:, PROMPT_SLOTS + position] = written[:, position]
    texts = ("".join(VOCABULARY[token] for token in row) for row in written)
    return [answer + stop for answer, stop, _ in (text.partition(END) for text in texts)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the policy, sample it and write pilot.csv and pilot.json.")
    parser.add_argument("--steps", type=int, default=8000, help="pretraining steps (%(default)s)")
    parser.add_argument("--prompts", type=int, default=256, help="held-out prompts in the pilot (%(default)s)")
    parser.add_argument("--rollouts", type=int, default=16, help="completions sampled per prompt (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (%(default)s)")
    parser.add_argument("--output-dir", type=Path, default=HERE, help="where both files go (beside this script)")
    args = parser.parse_args(argv)
    if min(args.steps, args.prompts, args.rollouts) < 1 or args.seed < 0:
        parser.error("--steps, --prompts and --rollouts start at 1, --seed at 0")

    started = time.perf_counter()
    # One stream each, so that more steps or rollouts leave the choice of prompts alone.
    problem_rng, train_rng, sample_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(args.seed).spawn(3))
    held_out, training = draw_problems(args.prompts, problem_rng)
    params, final_loss = train(training, args.steps, train_rng)
    counts: list[int] = []
    for number, prompt in enumerate(held_out, start=1):
        counts.append(sum(verify(prompt, text) for text in sample(params, prompt, args.rollouts, sample_rng)))
        if number % 64 == 0 or number == len(held_out):
            print(f"sampled {number}/{len(held_out)} prompts", file=sys.stderr, flush=True)

    args.output_dir.mkdir(parents=True, exist_ok=True)
    rows = (f"{prompt.rstrip('=')},{k},{args.rollouts}\n" for prompt, k in zip(held_out, counts, strict=True))
    table = "".join(["prompt_id,num_successes,num_rollouts\n", *rows]).encode()
    (args.output_dir / "pilot.csv").write_bytes(table)  # bytes, so that the digest is the same on every system
    successes = np.array(counts)
    flags = f"--steps {args.steps} --prompts {args.prompts} --rollouts {args.rollouts} --seed {args.seed}"
    training_record = {"method": "teacher forcing, Adam", "sums": TRAINING_SUMS, "steps": args.steps}
    training_record |= {"batch_size": BATCH, "learning_rate": f"{LEARNING_RATE}, falling linearly to 0"}
    provenance = {
        "policy": f"multilayer perceptron on a {WINDOW}-character window, two tanh layers of {HIDDEN}",
        "task": f"addition, operands of 1 to {MAX_DIGITS} digits, prompts held out, exact-match verifier",
        "training": training_record | {"seed": args.seed, "final_loss": round(final_loss, 4)},
        "temperature": TEMPERATURE,
        "num_prompts": args.prompts,
        "num_rollouts": args.rollouts,
        "mean_success": round(float(successes.mean()) / args.rollouts, 4),
        "all_fail_share": round(float((successes == 0).mean()), 4),
        "all_pass_share": round(float((successes == args.rollouts).mean()), 4),
        "command": f"python examples/addition/make_pilot.py {flags}",
        "numpy": np.__version__,
        "sha256": hashlib.sha256(table).hexdigest(),
    }
    (args.output_dir / "pilot.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {args.output_dir / 'pilot.csv'} in {time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
