import pytest

from ailora.errors import UserError
from tests.lab.report.runs import comparison, run


def test_nothing_finished_is_refused_with_the_first_reason():
    failed = [{"config": {"method": "lora", "lr": 1.0, "seed": 0}, "error": "out of memory"}]
    with pytest.raises(UserError, match=r"no finished run to report.*out of memory"):
        comparison([], failed=failed)


def test_two_runs_of_one_method_and_seed_are_refused():
    with pytest.raises(UserError, match="'lora' has seed 0 more than once"):
        comparison([run("lora", 0, 0.7), run("lora", 0, 0.8)])


def test_one_rate_is_said_to_rank_nothing_however_many_seeds():
    runs = [run(method, seed, 0.7) for method in ("lora", "ailora") for seed in range(9)]
    assert comparison(runs).caveat.startswith("No ranking of methods")


def test_few_seeds_of_one_method_are_said_although_the_others_have_many():
    runs = [run("lora", seed, 0.7) for seed in range(6)] + [run("ailora", 0, 0.7)]
    made = comparison(runs, chosen="selected", rates=(5e-4, 1e-3, 2e-3))
    assert "With 1 seed nothing can be concluded" in made.caveat


def test_enough_seeds_at_a_rate_inside_the_range_need_no_warning():
    runs = [run("lora", seed, 0.7) for seed in range(5)]
    caveat = comparison(runs, chosen="selected", rates=(5e-4, 1e-3, 2e-3)).caveat
    assert "nothing can be concluded" not in caveat
    assert "beyond" not in caveat


@pytest.mark.parametrize("rates", [(1e-3, 2e-3, 4e-3), (2.5e-4, 5e-4, 1e-3)])
def test_a_best_rate_at_the_edge_of_those_tried_is_named(rates):
    runs = [run("lora", 0, 0.7, lr=rates[1]), run("ailora", 0, 0.7, lr=1e-3)]
    caveat = comparison(runs, chosen="selected", rates=rates).caveat
    assert "The best rate of AILoRA was the smallest or largest tried" in caveat
