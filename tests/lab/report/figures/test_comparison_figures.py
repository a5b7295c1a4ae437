import csv
import re
from functools import partial

import pytest

from ailora.lab.report.figures import comparison_figures as figures
from ailora.lab.report.figures.drawing import draw
from tests.lab.report.runs import comparison, run


def _axes(figure):
    return figure.axes[0]


def _line(figure, name):
    return next(line for line in _axes(figure).lines if line.get_label() == name)


def test_curve_is_the_mean_of_the_seeds_and_the_band_their_range():
    made = comparison([run("lora", seed, 0.7) for seed in (0, 2, 4)])
    figure, _ = figures.training_loss(made)
    line = _line(figure, "LoRA")
    assert list(line.get_xdata()) == [10, 20]  # step 0 has no loss yet
    assert list(line.get_ydata()) == pytest.approx([0.62, 0.4])
    band = _axes(figure).collections[0].get_paths()[0].vertices
    at_10 = sorted({round(float(y), 9) for x, y in band if x == 10})
    assert at_10 == [0.6, 0.64]
    assert "n = 3" in _axes(figure).get_xlabel()


def test_a_curve_ends_where_the_first_seed_stopped():
    runs = [run("lora", 0, 0.7), run("lora", 1, 0.7)]
    runs[1]["history"].pop()
    figure, rows = figures.training_loss(comparison(runs))
    assert list(_line(figure, "LoRA").get_xdata()) == [10]
    assert len(rows) == 1 + 3 + 2  # the data keeps every point


def test_norms_far_apart_get_a_logarithmic_axis():
    made = [run("lora", 0, 0.7), run("ailora", 0, 0.7)]
    assert _axes(figures.update_norms(comparison(made))[0]).get_xscale() == "linear"
    made[0]["updates"][0]["norm"] = 1e-3
    assert _axes(figures.update_norms(comparison(made))[0]).get_xscale() == "log"
    made[0]["updates"][0]["norm"] = 0.0  # has no place on a logarithmic axis
    assert _axes(figures.update_norms(comparison(made))[0]).get_xscale() == "linear"


def test_norms_say_how_many_weights_they_are_of_when_methods_differ():
    made = comparison([run("lora", 0, 0.7), run("lora", 1, 0.7), run("ailora", 0, 0.7)])
    labels = _axes(figures.update_norms(made)[0]).get_legend_handles_labels()[1]
    assert labels == ["$W^Q$ (n = 3 to 6 per method)", "$W^V$ (n = 3 to 6 per method)"]


def test_csv_of_the_norms_holds_every_weight(tmp_path):
    made = comparison([run("lora", 0, 0.7), run("ailora", 0, 0.7)])
    draw(partial(figures.update_norms, made), tmp_path / "norms")
    with (tmp_path / "norms.csv").open(newline="") as stream:
        rows = [(r["method"], r["name"], float(r["norm"])) for r in csv.DictReader(stream)]
    expected = [
        (m, u["name"], u["norm"]) for m in ("lora", "ailora") for u in made.runs[0]["updates"]
    ]
    assert rows == expected


def test_ids_of_a_drawing_bear_its_name_and_every_reference_finds_one(tmp_path):
    made = comparison([run("lora", 0, 0.7)])
    svg = draw(partial(figures.training_loss, made), tmp_path / "loss")
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    assert all(i.startswith("loss-") for i in ids)
    references = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    assert references
    assert references <= ids


def test_steps_are_whole_numbers():
    runs = [run("lora", 0, 0.7)]
    for place, entry in enumerate(runs[0]["history"]):
        entry["step"] = place
    for make in (figures.training_loss, figures.selection_score):
        figure, _ = make(comparison(runs))
        figure.canvas.draw()
        assert all(float(tick).is_integer() for tick in _axes(figure).get_xticks())


def test_methods_that_are_not_in_a_figure_are_named_with_the_reason():
    runs = [run("lora", 0, 0.7), run("full", 0, 0.7), run("ailora", 0, 0.7), run("ailora", 1, 0.7)]
    runs[1]["updates"] = []
    runs[3]["history"] = [{"step": 3, "epoch": 0.3, "loss": 1.0, "accuracy": 0.5}]
    said = figures.left_out(comparison(runs))
    assert said["update_norms"].startswith("Not shown: full fine-tuning (")
    assert said["training_loss"].startswith("Not shown: AILoRA (")
    assert said["selection_score"].startswith("Not shown: AILoRA (")
    assert set(figures.left_out(comparison(runs[:1])).values()) == {""}


def test_norms_of_methods_that_list_none_are_an_empty_figure():
    only = run("full", 0, 0.7)
    only["updates"] = []
    figure, rows = figures.update_norms(comparison([only]))
    figure.canvas.draw()
    assert len(rows) == 1
    assert not _axes(figure).collections
