"""Worked requests for the OpenAPI document; the tests send every one."""

from typing import Any

__all__ = [
    "ANALYSIS_EXAMPLES",
    "PLAN_EXAMPLES",
    "REQUEST_EXAMPLES",
    "REWIND_EXAMPLES",
    "RUN_EXAMPLES",
    "WINDOW_EXAMPLES",
]

_CELLS = [
    {"num_rollouts": 8, "num_successes": 0, "num_prompts": 30},
    {"num_rollouts": 8, "num_successes": 2, "num_prompts": 20},
    {"num_rollouts": 8, "num_successes": 6, "num_prompts": 14},
]

REQUEST_EXAMPLES: dict[str, dict[str, Any]] = {
    "histogram": {
        "summary": "A histogram of a pilot, judged by pass@8, trained with 4 rollouts per prompt",
        "value": {
            "pilot": {"cells": _CELLS},
            "metric": {"name": "pass_at_k", "k": 8},
            "budget": {"num_rollouts": 4},
        },
    },
    "everything": {
        "summary": "The same with every option spelled out",
        "value": {
            "pilot": {"cells": _CELLS},
            "metric": {"name": "pass_at_k", "k": 8},
            "budget": {"num_rollouts": 4},
            "current": "grpo",
            "search": {
                "gamma_min": 0.0,
                "gamma_max": 2.0,
                "criterion": "lookahead",
                "judged_on": "either",
                "look_ahead": False,
            },
            "estimator": {"baseline": "bayes", "order": 4, "filter_groups": False},
            "score_model": {"kappa": 0.1},
            "prior": {"name": "empirical_bayes"},
            "uncertainty": {"bootstrap": 200, "seed": 0, "level": 0.9},
            "sampled": {},
            "training": {},
        },
    },
    "groups": {
        "summary": "Prompts of two sources: a joint answer, one per source, and whether they differ",
        "value": {
            "pilot": {
                "groups": {
                    "algebra": {"cells": _CELLS},
                    "geometry": {
                        "cells": [
                            {"num_rollouts": 8, "num_successes": 0, "num_prompts": 40},
                            {"num_rollouts": 8, "num_successes": 1, "num_prompts": 9},
                        ]
                    },
                }
            },
            "metric": {"name": "pass_at_k", "k": 8},
            "budget": {"num_rollouts": 4},
        },
    },
    "conditions": {
        "summary": "How the pilot was sampled and how training samples, a stated prior, DAPO's dropping of groups",
        "value": {
            "pilot": {"cells": _CELLS},
            "metric": "pass@8",
            "budget": {"num_rollouts": 4},
            "current": "dapo",
            "estimator": {"baseline": "minimum_variance", "filter_groups": True},
            "prior": {"alpha": 1, "beta": 1},
            "sampled": {"temperature": 0.6, "policy": "sft-3", "step": 0},
            "training": {"temperature": 1.0, "policy": "sft-3", "step": 40},
        },
    },
    "counts": {
        "summary": "Successes prompt by prompt, judged by log-success",
        "value": {
            "pilot": {"num_rollouts": 8, "num_successes": [0, 3, 1, 0, 8, 5, 0, 2]},
            "metric": {"name": "log_success", "tau": 0.01},
            "budget": {"num_rollouts": 8},
        },
    },
    "mixture": {
        "summary": "Pass rates of 8 rollouts each, judged half by pass@1 and half by pass@16",
        "value": {
            "pilot": {"num_rollouts": 8, "pass_rates": [0.0, 0.375, 0.13, 0.0, 1.0, 0.62]},
            "metric": {
                "name": "mixture",
                "parts": [
                    {"weight": 0.5, "metric": {"name": "pass_at_k", "k": 1}},
                    {"weight": 0.5, "metric": {"name": "pass_at_k", "k": 16}},
                ],
            },
            "budget": {"num_rollouts": 8},
        },
    },
    "budget": {
        "summary": "A budget of rollouts per step instead of rollouts per prompt, which the plan then chooses",
        "value": {
            "pilot": {"cells": _CELLS},
            "metric": "pass@8",
            "budget": {"rollouts_per_step": 512},
        },
    },
    "exact_rates": {
        "summary": "Pass rates taken as exact (no intervals), your own table of advantages as the trainer in use",
        "value": {
            "pilot": {"pass_rates": [0.01, 0.05, 0.2, 0.5]},
            "metric": {"name": "pass_at_k", "k": 4},
            "budget": {"num_rollouts": 2},
            "current": {"success": [None, 0.5, 0.0], "failure": [0.0, -0.5, None]},
        },
    },
}

ANALYSIS_EXAMPLES: dict[str, dict[str, Any]] = {
    "name": {
        "summary": "GRPO with 8 rollouts per prompt, for uniform pass rates",
        "value": {"estimator": "grpo", "num_rollouts": 8},
    },
    "parameters": {
        "summary": "PKPO for pass@4 on a pilot",
        "value": {
            "estimator": {"name": "pkpo", "parameters": {"k": 4}},
            "num_rollouts": 8,
            "pilot": {"cells": _CELLS},
        },
    },
    "family": {
        "summary": "A member of the family with every option spelled out",
        "value": {
            "estimator": {"gamma": 0.5, "baseline": "bayes", "order": 4, "filter_groups": False},
            "num_rollouts": 8,
            "pilot": {"num_rollouts": 8, "num_successes": [0, 3, 1, 0, 8, 5, 0, 2]},
            "prior": {"alpha": 1, "beta": 1},
            "score_model": {"kappa": 0.3},
        },
    },
    "table": {
        "summary": "Your own table of advantages, for groups of 2",
        "value": {"estimator": {"success": [None, 0.5, 0.0], "failure": [0.0, -0.5, None]}},
    },
}

RUN_EXAMPLES: dict[str, dict[str, Any]] = {
    "defaults": {
        "summary": "Judged by pass@8, trained with 8 rollouts per prompt, no pilot",
        "value": {"metric": "pass@8", "budget": {"num_rollouts": 8}},
    },
    "pilot": {
        "summary": "From a pilot on, so that the first window's objective is chosen too",
        "value": {"metric": {"name": "pass_at_k", "k": 8}, "budget": {"num_rollouts": 4}, "pilot": {"cells": _CELLS}},
    },
    "everything": {
        "summary": "Every option spelled out",
        "value": {
            "metric": "pass@8",
            "budget": {"num_rollouts": 8},
            "search": {"gamma_min": 0.0, "gamma_max": 2.0, "criterion": "rms_gain"},
            "estimator": {"baseline": "bayes", "order": 8, "filter_groups": False},
            "score_model": {"kappa": 0.3},
            "prior": {"name": "empirical_bayes"},
            "current": "grpo",
            "controller": {
                "half_life": 2.0,
                "hysteresis": 0.01,
                "max_step": 0.1,
                "min_prompts": 16.0,
                "initial_gamma": 1.0,
            },
            "uncertainty": {"bootstrap": 200, "seed": 0},
            "pilot": {"num_rollouts": 8, "num_successes": [0, 3, 1, 0, 8, 5, 0, 2]},
        },
    },
}

WINDOW_EXAMPLES: dict[str, dict[str, Any]] = {
    "histogram": {"summary": "A histogram of the window's groups", "value": {"cells": _CELLS}},
    "counts": {
        "summary": "Successes group by group; one group lost two of its rollouts to errors",
        "value": {"num_rollouts": [8, 8, 6, 8], "num_successes": [0, 3, 1, 8]},
    },
    "empty": {"summary": "A window without groups", "value": {"cells": []}},
}

REWIND_EXAMPLES: dict[str, dict[str, Any]] = {
    "checkpoint": {"summary": "The trainer resumes from before its first window", "value": {"to_index": 0}},
}

PLAN_EXAMPLES: dict[str, dict[str, Any]] = {
    "budget": {
        "summary": "512 rollouts per step, judged by pass@8",
        "value": {"pilot": {"cells": _CELLS}, "metric": "pass@8", "budget": {"rollouts_per_step": 512}},
    },
    "everything": {
        "summary": "Powers of two, a prompt that costs half a rollout, demands, a measured κ and ρ, and whether the "
        "pilot is enough",
        "value": {
            "pilot": {"cells": _CELLS},
            "metric": "pass@8",
            "budget": {
                "rollouts_per_step": 512,
                "choices": [4, 8, 16, 32],
                "prompt_cost": 0.5,
                "num_prompts": 2000,
            },
            "cosine": 0.05,
            "search": {"gamma_min": 0.0, "gamma_max": 2.0, "judged_on": "either"},
            "estimator": {"baseline": "bayes", "filter_groups": False},
            "demands": {"least_pass_rate": 0.05, "tail": 0.5, "largest_scale": 4.0},
            "score_model": {"kappa": 0.2, "kappa_spread": 0.5},
            "prior": {"name": "empirical_bayes"},
            "uncertainty": {"bootstrap": 200, "seed": 0, "level": 0.9},
            "pilot_target": 0.005,
        },
    },
}
