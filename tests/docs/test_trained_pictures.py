"""The pictures of a trained model are written where the README has them."""

from PIL import Image

from tests.docs.trained_pictures import WIDTH, write_trained_pictures


def test_all_are_written(trained_run, celeba, tmp_path):
    write_trained_pictures(trained_run, celeba, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mean_maps.jpg", "pe_probe.png", "pe_probe_history.png"}
    with Image.open(tmp_path / "mean_maps.jpg") as picture:
        assert picture.width == WIDTH
