"""Every setting of TRL's that breaks the estimator is named with its fix, and the fix silences it."""

import dataclasses
import importlib.util
import json
import re

import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")
if importlib.util.find_spec("trl") is None:  # importing it takes seconds, in every test worker
    pytest.skip("trl is not installed: TRAINING=1 make test", allow_module_level=True)
module = pytest.importorskip("rl2ml_core.training.trl_settings")
check_arguments, reward_roles, trl_settings = module.check_arguments, module.reward_roles, module.trl_settings
DROPS_TERMS, LENGTHS, OFF_POLICY, SAMPLER = module.DROPS_TERMS, module.LENGTHS, module.OFF_POLICY, module.SAMPLER

pytestmark = pytest.mark.xdist_group("trl")

BASE = {"use_cpu": True, "bf16": False, "report_to": [], "num_generations": 4, "per_device_train_batch_size": 4}
ACCUMULATION = {"gradient_accumulation_steps": 2}


def config(stock=False, **settings):
    from trl import GRPOConfig

    from rl2ml_core.training.trl_config import RL2MLConfig

    return (GRPOConfig if stock else RL2MLConfig)(**BASE | settings)


def found(args, model=None):
    return [str(setting) for setting in trl_settings(args, model)]


CASES = [
    *[({"loss_type": name}, LENGTHS, {"loss_type": "dr_grpo"}) for name in ("grpo", "bnpo", "dapo", "cispo", "sapo")],
    ({"loss_type": "vespo"}, LENGTHS, {"loss_type": "dr_grpo"}),
    (
        {"importance_sampling_level": "token", "loss_type": "luspo"},
        "divides by the longest response of a batch in some releases",
        {"importance_sampling_level": "sequence"},
    ),
    ({"num_iterations": 2}, OFF_POLICY, {"num_iterations": 1}),
    ({"steps_per_generation": 4, **ACCUMULATION}, OFF_POLICY, {"steps_per_generation": 2}),
    # Rollouts for three micro-batches, a step every two: the second step's begin before the first step.
    ({"steps_per_generation": 3, **ACCUMULATION}, OFF_POLICY, {"steps_per_generation": 2}),
    ({"steps_per_generation": 2, "gradient_accumulation_steps": 3}, OFF_POLICY, {"steps_per_generation": 3}),
    ({"mask_truncated_completions": True}, DROPS_TERMS, {"mask_truncated_completions": False}),
    ({"top_entropy_quantile": 0.2}, DROPS_TERMS, {"top_entropy_quantile": 1.0}),
    ({"delta": 0.9}, "no success has a gradient", {"delta": None}),
    ({"off_policy_mask_threshold": 0.5}, "drops failures alone", {"off_policy_mask_threshold": None}),
    (
        {"use_vllm": True, "vllm_importance_sampling_correction": False},
        SAMPLER,
        {"vllm_importance_sampling_correction": True},
    ),
    (
        {"use_vllm": True, "vllm_structured_outputs_regex": "[01]+"},
        SAMPLER,
        {"vllm_structured_outputs_regex": None},
    ),
    ({"top_p": 0.9}, SAMPLER, {"top_p": 1.0}),
    ({"top_k": 20}, SAMPLER, {"top_k": 0}),
    ({"min_p": 0.1}, SAMPLER, {"min_p": 0.0}),
    ({"repetition_penalty": 1.05}, SAMPLER, {"repetition_penalty": 1.0}),
    ({"neftune_noise_alpha": 5.0}, SAMPLER, {"neftune_noise_alpha": None}),
]


@pytest.mark.parametrize(("settings", "does", "fix"), CASES, ids=[str(case[0]) for case in CASES])
def test_a_setting_is_named_with_its_fix(settings, does, fix):
    [sentence] = found(config(**settings))
    (written, value), (changed, instead) = list(settings.items())[-1 if "use_vllm" in settings else 0], *fix.items()
    assert sentence.startswith(f"{written}={value!r}" if isinstance(value, str) else f"{written}={value}")
    assert does in sentence
    assert f"Set {changed}={instead!r}" in sentence
    assert found(config(**settings | fix)) == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        ACCUMULATION,
        # At ratio 1 all the same: several generations per step, and one that is used twice within a step.
        {"steps_per_generation": 1, **ACCUMULATION},
        {"steps_per_generation": 1, "num_iterations": 2, **ACCUMULATION},
        {"importance_sampling_level": "sequence"},
        # Terms of their own beside the objective's gradient.
        {"beta": 0.04},
        {"entropy_coef": 0.01},
        {"temperature": 0.7},
        {"delta": 1.5},
        # Advantages are ours.
        {"scale_rewards": "batch"},
        {"multi_objective_aggregation": "normalize_then_sum"},
        {"use_vllm": True},
        {"generation_kwargs": {"top_p": 1.0, "num_beams": 1, "suppress_tokens": [], "temperature": 1.0}},
        {"use_vllm": True, "generation_kwargs": {"top_k": -1, "presence_penalty": 0.0, "min_tokens": 0, "seed": 3}},
    ],
    ids=str,
)
def test_what_breaks_nothing_is_not_warned_of(settings):
    assert found(config(**settings)) == []


def test_trls_own_defaults_divide_by_lengths():
    [sentence] = found(config(stock=True))
    assert sentence == (
        "loss_type='dapo' divides by response lengths, so baselines no longer cancel and the objective is another one. "
        "Set loss_type='dr_grpo'."
    )


def test_several_settings_are_several_warnings():
    both = found(config(steps_per_generation=3, num_iterations=2, **ACCUMULATION))
    assert [sentence.partition("=")[0] for sentence in both] == ["num_iterations", "steps_per_generation"]


def test_the_batch_size_that_was_set_is_named():
    [sentence] = found(config(generation_batch_size=16, **ACCUMULATION))
    assert sentence.startswith("steps_per_generation=4 (generation_batch_size=16) takes steps on rollouts of an older")
    assert sentence.endswith("Set steps_per_generation=2, like gradient_accumulation_steps, or leave both out.")


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"top_p": 0.9}, "generation_kwargs={'top_p': 0.9} samples .* Set generation_kwargs without 'top_p'."),
        ({"num_beams": 4}, "generation_kwargs={'num_beams': 4} .* without 'num_beams'."),
        ({"do_sample": False}, "generation_kwargs={'do_sample': False} .* without 'do_sample'."),
        ({"suppress_tokens": [3]}, r"generation_kwargs={'suppress_tokens': \[3\]} .*"),
        ({"logit_bias": {"3": -100}}, "generation_kwargs={'logit_bias': .*"),
        ({"temperature": 0.5}, "generation_kwargs={'temperature': 0.5} .* Set temperature=0.5 in the config itself."),
    ],
)
def test_generation_kwargs_win_over_the_config(kwargs, sentence):
    [setting] = trl_settings(config(generation_kwargs=kwargs))
    assert re.fullmatch(sentence, str(setting))
    assert found(config(top_p=0.9, generation_kwargs={"top_p": 1.0})) == []


class Model(torch.nn.Module):
    def __init__(self, dropout=0.0, **generation):
        super().__init__()
        from transformers import GenerationConfig

        self.part, self.generation_config = torch.nn.Dropout(dropout), GenerationConfig(**generation)


def test_what_the_models_own_generation_config_adds():
    # TRL sets these four itself: the model's values are not used.
    assert found(config(), Model(top_p=0.8, top_k=20, repetition_penalty=1.05, do_sample=False)) == []
    model = Model(no_repeat_ngram_size=3, min_p=0.1)
    assert [sentence.partition(" samples")[0] for sentence in found(config(), model)] == [
        "The model's generation_config.min_p=0.1",
        "The model's generation_config.no_repeat_ngram_size=3",
    ]
    assert found(config(use_vllm=True), model) == []  # sampled without it
    assert len(found(config(min_p=0.0), model)) == 1
    model.generation_config.no_repeat_ngram_size = None
    assert found(config(min_p=0.0), model) == []


def test_dropout_is_named_while_it_is_there():
    [sentence] = found(config(), Model(dropout=0.1))
    assert sentence.startswith("The model's dropout samples from another")
    assert sentence.endswith("Set disable_dropout=True.")
    assert found(config(), Model(dropout=0.0)) == []


# ---- arguments ----


def test_tables_must_be_those_of_the_groups():
    table = rl2ml.known_table("rloo", 4)
    check_arguments(config(), table)
    check_arguments(None, table)
    with pytest.raises(rl2ml.InvalidInput, match=r"^num_generations=2: objective must have a table for groups of 2; "):
        check_arguments(config(num_generations=2), table)
    expected = "num_generations_eval=8: objective must have a table for groups of 8; got one for groups of 4"
    with pytest.raises(rl2ml.InvalidInput, match=f"^{expected}$"):
        check_arguments(config(num_generations_eval=8), table)
    with pytest.raises(rl2ml.InvalidInput, match=r"num_generations_eval=1: .* grpo needs at least 2 rollouts"):
        check_arguments(config(num_generations_eval=1), "grpo")
    check_arguments(config(num_generations_eval=1), rl2ml.Objective(1.0))


def test_a_length_to_divide_by_is_asked_for():
    expected = "max_completion_length must be a number with loss_type='dr_grpo', which divides by it; got None"
    with pytest.raises(rl2ml.InvalidInput, match=expected):
        check_arguments(config(max_completion_length=None), rl2ml.Objective(1.0))
    check_arguments(config(max_completion_length=None, loss_type="luspo"), rl2ml.Objective(1.0))


def test_one_reward_function_is_correctness():
    assert reward_roles(["right"], None, None) == ("right", {})
    assert reward_roles(["right"], "right", [1.0]) == ("right", {})


@pytest.mark.parametrize(
    ("names", "correctness", "weights", "message"),
    [
        (["right", "short"], None, None, "function that gives 0 or 1, one of right, short; got none"),
        (["right", "short"], "rihgt", None, "one of right, short; got 'rihgt', of which there are 0"),
        (["right", "right"], "right", None, "one of right, right; got 'right', of which there are 2"),
        (["right", "short"], "right", [2.0, 1.0], "reward_weights must have 1 for right, .*; got 2"),
        (["right", "short"], "right", [0.0, 1.0], "reward_weights must have 1 for right, .*; got 0"),
        (["right", "f", "f"], "right", [1.0, 0.5, 0.0], "names of their own; got 'f' more than once"),
        (["right", "f", "f"], "right", [1.0, 0.0, 0.5], "names of their own; got 'f' more than once"),
    ],
)
def test_reward_functions_without_a_clear_part_are_refused(names, correctness, weights, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        reward_roles(names, correctness, weights, warn=False)


def test_functions_that_are_not_weighed_are_named():
    with pytest.warns(UserWarning, match=r"Rewards of short, kind are logged, not trained on: advantages count right"):
        assert reward_roles(["short", "right", "kind"], "right", None) == ("right", {})
    assert reward_roles(["short", "right"], "right", None, warn=False) == ("right", {})
    assert reward_roles(["short", "right", "kind"], "right", [0.5, 1.0, 0.0]) == ("right", {"short": 0.5})


# ---- the config ----


def test_defaults_are_trls_but_for_the_loss():
    ours, theirs = config(), config(stock=True)
    other = {each.name for each in dataclasses.fields(theirs) if getattr(ours, each.name) != getattr(theirs, each.name)}
    assert other - {"logging_dir", "output_dir"} == {"loss_type"}
    assert (ours.objective, ours.correctness, ours.loss_type) == (None, None, "dr_grpo")


def test_command_lines_name_objective_and_reward(tmp_path):
    from trl import TrlParser

    line = "--objective objective.json --correctness accuracy --num_generations 4 --per_device_train_batch_size 4"
    [args] = TrlParser(type(config())).parse_args_and_config(
        [*line.split(), "--use_cpu", "--bf16", "False", "--output_dir", str(tmp_path)]
    )
    assert (args.objective, args.correctness, args.loss_type) == ("objective.json", "accuracy", "dr_grpo")


@pytest.mark.parametrize(
    "objective",
    [
        rl2ml.Objective(0.6, "bayes", rl2ml.PilotHistogram.from_counts([0, 1, 3], 4), num_rollouts=4),
        rl2ml.known_table("rloo", 4),
        "grpo",
        None,
    ],
    ids=["objective", "table", "name", "none"],
)
def test_a_config_with_an_objective_is_saved_and_shown(objective, tmp_path):
    args = config(objective=objective, output_dir=str(tmp_path))
    content = json.loads(args.to_json_string())["objective"]
    if isinstance(objective, rl2ml.Objective):
        assert rl2ml.Objective.from_dict(content).to_dict() == objective.to_dict()
    elif isinstance(objective, rl2ml.AdvantageTable):
        assert content == {"success": objective.success.tolist(), "failure": objective.failure.tolist()}
    else:
        assert content == objective
    assert "loss_type=dr_grpo" in str(args)
    assert args.to_sanitized_dict()["loss_type"] == "dr_grpo"
    torch.save(args, tmp_path / "training_args.bin")
    loaded = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert repr(loaded.objective) == repr(objective)


def test_a_path_is_saved_as_text(tmp_path):
    args = config(objective=tmp_path / "objective.json")
    assert args.to_dict()["objective"] == str(tmp_path / "objective.json")
