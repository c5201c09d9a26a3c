"""A rehearsal on the cluster: it is preempted by itself, requeued, and says what it found."""

from __future__ import annotations

from tests.slurm.workspace import Workspace


def test_a_rehearsal_preempts_itself_once_and_goes_on(rehearsal: Workspace) -> None:
    results = rehearsal.folder / "results/rehearsal"
    decoder = results.with_name("decoders") / "siglip2-b.safetensors"
    made = rehearsal.local("--cores", "2", "--", "results/rehearsal/decoders/siglip2-b.safetensors")
    assert made.returncode == 0, made.stdout[-5000:]
    # What the paper's results have already is not made.
    decoder.parent.mkdir()
    (results / "decoders/siglip2-b.safetensors").rename(decoder)
    run = rehearsal.submit("--retries", "0", "rehearsal")
    assert run.finish() == 0, run.log[-5000:]
    (log,) = results.glob("rows/dit-siglip2b-dsr/run-*/train-12.log")
    text = log.read_text(encoding="utf-8")
    # The same job, which SLURM started again.
    assert text.count(" is requeued and will go on from ") == 1
    assert text.count("Resumed at step") == 1
    page = (results / "rehearsal.md").read_text(encoding="utf-8")
    assert "| dit-siglip2b-dsr |      2 |" in page
    assert "NOT RESUMED" not in page
    assert "Made, with random weights: evaluator's network, siglip2-b." in page
    (cells,) = ([cell.strip() for cell in x.split("|")[1:-1]] for x in page.splitlines() if x.startswith("| dit"))
    # Where a small state takes no time to save, its MB/s are not known.
    for column in (4, 5, 6, 8, 10, 11):
        assert float(cells[column].replace(",", "")) >= 0
    table = (results / "table1.md").read_text(encoding="utf-8")
    assert table.startswith("# REHEARSAL on made images")
    assert "No number here is comparable with a published one." in table
    assert (results / "figures/training.png").is_file()
    # CPUs are not planned for.
    assert (results / "throughput.csv").read_text(encoding="utf-8").count("\n") == 1
