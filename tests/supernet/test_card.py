"""The model card of a supernet folder."""

from dataclasses import replace

from ofatvm.supernet.card import supernet_card
from tests.supernet.test_folder import make
from tests.test_text import NAMES

FIGURES = {
    "evaluated_on": "9 images",
    "largest_percent": 90.0,
    "smallest_percent": 80.0,
    "accuracy_model": None,
}


def test_names_do_not_break_the_tables(tmp_path):
    trained = {"recipe": "sandwich", "epochs": 1, "batch": 2, "seed": 0, "seconds": 60}
    folder = replace(
        make(tmp_path),
        name="*mine* | yours",
        classes=NAMES,
        data={"name": "a|b", "licence": "c|d `e`", "train_images": 9, "val_images": 9},
        training={**trained, "machine": "2 cores", "versions": {}},
        figures=FIGURES,
    )
    lines = supernet_card(folder).splitlines()
    assert lines[0] == r"# \*mine\* \| yours: a Once-for-All supernet"
    rows = [line for line in lines if line.startswith("|")]
    assert all(line.replace(r"\|", "").count("|") == 3 for line in rows)
    assert rows[2].startswith("| classes | 猫 と犬, قطة, ")
    assert r"a\|b, C:\\cats\\, \*bold\* \_under\_ \`code\` \[link\](x) &lt;b>&amp;amp;" in rows[2]
