"""Pixels: that tile (r, c) shows map (r, c), on one scale, and that the files hold the frames that were drawn."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers.viz_history import GRID, face_embeddings, write_checkpoint, write_run
from vitpe.errors import UsageError, VitpeError
from vitpe.viz import explained
from vitpe.viz.animation import write_animation
from vitpe.viz.colours import (
    ACCENT,
    BACKGROUND,
    GIF_LEVELS,
    HATCH,
    INK,
    TRANSPARENT,
    UNDEFINED,
    ColourScale,
    make_palette,
    rgb,
)
from vitpe.viz.components import components_picture
from vitpe.viz.explained import explained_picture
from vitpe.viz.frames import CURVE_Y, EXAMPLE_Y, HOW_TO_READ_Y, PANEL_GAP, TOP, Curve, FramePainter
from vitpe.viz.history import load_history, read_checkpoint
from vitpe.viz.maps import best_cell, lay_out_map, lay_out_tiles, ticks, tiles_extent
from vitpe.viz.options import Timing
from vitpe.viz.similarity import cosine_similarity

PALETTE = make_palette("viridis", GIF_LEVELS)
SCALE = ColourScale(-0.5, 0.9)
CURVE = Curve("Mirror symmetry", "of maps", [None, 0.5, 0.7], 0.02)


def random_similarity(grid, seed=0):
    embeddings = np.random.default_rng(seed).standard_normal((grid[0] * grid[1], 3))
    return cosine_similarity(embeddings)


def assert_tiles_show_maps(pixels, tiles, similarity, grid):
    """Every pixel of every cell against a colour worked out for it alone; shown to fail below."""
    cell = tiles.cell
    for row, column in np.ndindex(grid):
        top, left, _, _ = tiles.tile_box(row, column)
        for i, j in np.ndindex(grid):
            box = pixels[top + i * cell : top + (i + 1) * cell, left + j * cell : left + (j + 1) * cell]
            if (i, j) == (row, column):
                assert box[0, 0] == PALETTE.index_of(INK)
                if cell > 2:
                    assert box[cell // 2, cell // 2] == PALETTE.index_of(BACKGROUND)
                continue
            value = similarity[row * grid[1] + column, i * grid[1] + j]
            share = min(1, max(0, (value - SCALE.low) / (SCALE.high - SCALE.low)))
            assert (box == round(share * (GIF_LEVELS - 1))).all(), (row, column, i, j)


@pytest.mark.parametrize(("grid", "cell", "scale"), [((13, 11), 4, 1), ((2, 3), 5, 2), ((4, 4), 1, 1), ((1, 6), 3, 1)])
def test_tile_r_c_shows_map_r_c(grid, cell, scale):
    similarity, tiles = random_similarity(grid), lay_out_tiles(grid, cell, scale)
    pixels = tiles.draw(SCALE.levels(similarity, GIF_LEVELS), PALETTE)
    assert_tiles_show_maps(pixels, tiles, similarity, grid)
    assert tiles.cell == cell * scale
    assert pixels.shape[1] == tiles_extent(grid[1], cell) * scale
    assert pixels.shape[0] == tiles_extent(grid[0], cell) * scale
    is_tile = np.zeros(pixels.shape, dtype=bool)
    for row, column in np.ndindex(grid):
        top, left, bottom, right = tiles.tile_box(row, column)
        is_tile[top:bottom, left:right] = True
    assert (pixels[~is_tile] == PALETTE.index_of(BACKGROUND)).all()


@pytest.mark.parametrize("wrong", [np.flipud, np.fliplr, lambda pixels: np.roll(pixels, 1, axis=1)])
def test_the_comparison_of_tiles_can_fail(wrong):
    grid = (3, 4)
    similarity, tiles = random_similarity(grid), lay_out_tiles(grid, 3)
    with pytest.raises(AssertionError):
        assert_tiles_show_maps(
            wrong(tiles.draw(SCALE.levels(similarity, GIF_LEVELS), PALETTE)), tiles, similarity, grid
        )


def test_a_map_alone_is_its_tile():
    levels = SCALE.levels(random_similarity(GRID), GIF_LEVELS)
    tiles = lay_out_tiles(GRID, 4)
    for patch in ((0, 0), (6, 3), (12, 10)):
        top, left, bottom, right = tiles.tile_box(*patch)
        expected = tiles.draw(levels, PALETTE)[top:bottom, left:right]
        np.testing.assert_array_equal(lay_out_map(GRID, patch, 4).draw(levels, PALETTE), expected)


def test_undefined_is_hatched_grey_and_nothing_else_is():
    similarity = random_similarity((3, 3))
    similarity[4], similarity[:, 4] = np.nan, np.nan
    tiles = lay_out_tiles((3, 3), 6)
    pixels = tiles.draw(SCALE.levels(similarity, GIF_LEVELS), PALETTE)
    greys = np.isin(pixels, [PALETTE.index_of(UNDEFINED), PALETTE.index_of(HATCH)])
    for row, column in np.ndindex(3, 3):
        top, left, _, _ = tiles.tile_box(row, column)
        for i, j in np.ndindex(3, 3):
            box = greys[top + 6 * i : top + 6 * i + 6, left + 6 * j : left + 6 * j + 6]
            own = (row, column) == (i, j)
            undefined = (row, column) == (1, 1) or (i, j) == (1, 1)
            assert box.all() if undefined and not own else not box.any()
    assert TRANSPARENT not in pixels


def test_levels_are_one_scale_or_each_tiles_own():
    similarity = np.array([[1.0, 0.2, 0.4], [0.2, 1.0, 0.32], [0.4, 0.32, 1.0]])
    top = GIF_LEVELS - 1
    shared = ColourScale(0.2, 0.4).levels(similarity, GIF_LEVELS)
    np.testing.assert_array_equal(shared, [[top, 0, top], [0, top, round(0.6 * top)], [top, round(0.6 * top), top]])
    own = ColourScale(-1, 1, per_tile=True).levels(similarity, GIF_LEVELS)
    np.testing.assert_array_equal(own[~np.eye(3, dtype=bool)], [0, top, 0, top, top, 0])
    similarity[1], similarity[:, 1] = np.nan, np.nan
    levels = ColourScale(-1, 1, per_tile=True).levels(similarity, GIF_LEVELS)
    assert (levels[1] == TRANSPARENT).all()
    assert TRANSPARENT not in levels[0, [0, 2]]


@pytest.mark.parametrize("num_levels", [GIF_LEVELS, 128])
@pytest.mark.parametrize("cmap", ["viridis", "magma", "cividis"])
def test_the_palette_holds_colour_map_and_inks(cmap, num_levels):
    palette = make_palette(cmap, num_levels)
    assert palette.colours.shape == (256, 3)
    for colour in (BACKGROUND, INK, ACCENT, HATCH, UNDEFINED):
        index = palette.index_of(colour)
        assert num_levels <= index < TRANSPARENT
        assert tuple(palette.colours[index]) == rgb(colour)
        assert palette.nearest(np.array([[rgb(colour)]], dtype=np.uint8)).item() == index
    luminance = palette.colours[:num_levels].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) >= -0.5).all()  # brighter is more alike
    ramp = palette.to_rgb(palette.ramp(INK)).astype(int)
    assert np.abs(np.diff(ramp, axis=0)).max() < 12  # smooth letters


def test_an_unknown_colour_map_is_named():
    with pytest.raises(UsageError, match="'rainbowish'"):
        make_palette("rainbowish")


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (-0.65, 0.9, ["−0.5", "0.0", "0.5"]),
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.91, 1, ["0.92", "0.94", "0.96", "0.98", "1.00"]),
        (-1, 1, ["−1.0", "−0.5", "0.0", "0.5", "1.0"]),
        (3.0, 61.0, ["20", "40", "60"]),
    ],
)
def test_ticks_are_round_numbers(low, high, labels):
    assert [label for _, label in ticks(low, high)] == labels
    for value, label in ticks(low, high):
        assert low - 1e-9 <= value <= high + 1e-9
        assert float(label.replace("−", "-")) == pytest.approx(value)


@pytest.fixture
def short_history(tmp_path):
    embeddings = [np.zeros((143, 16)), face_embeddings(0.3, width=16), face_embeddings(1.0, width=16)]
    for step, values in enumerate(embeddings):
        scores = {"mean_accuracy": 0.9} if step == 1 else None
        write_checkpoint(tmp_path / f"{step}.safetensors", values, 100 * step, valid=scores)
    return load_history([tmp_path])


def test_a_frame_holds_the_tiles_and_the_example_of_its_checkpoint(short_history):
    painter = FramePainter(short_history, CURVE, SCALE, PALETTE, 842)
    frames = painter.draw_all()
    layout = painter.layout
    assert frames.shape == (3, layout.height, layout.width)
    assert layout.width <= 842
    for checkpoint, frame in zip(short_history, frames, strict=True):
        levels = SCALE.levels(cosine_similarity(checkpoint.embeddings), GIF_LEVELS)
        tiles = layout.tiles.draw(levels, PALETTE)
        shown = frame[TOP:, layout.left :][: tiles.shape[0], : tiles.shape[1]]
        if checkpoint.step:
            np.testing.assert_array_equal(shown, tiles)
            assert_tiles_show_maps(shown, layout.tiles, cosine_similarity(checkpoint.embeddings), GRID)
        else:  # the words in the middle
            assert 0.85 < (shown == tiles).mean() < 1
            assert not (frame[:, : layout.panel - 2] < GIF_LEVELS).any()
        x, y = layout.example_map
        example = frame[y:, x:][: layout.example.source.shape[0], : layout.example.source.shape[1]]
        differs = example != layout.example.draw(levels, PALETTE)
        assert (example[differs] == PALETTE.index_of(ACCENT)).all()  # the frame around the right eye
        assert 0 < differs.sum() < 200
    assert TRANSPARENT not in frames


def test_only_what_changed_changes(short_history):
    """Between two frames: tiles, example, counters, curve. The title and the explanations stay."""
    painter = FramePainter(short_history, CURVE, SCALE, PALETTE, 842)
    second, third = painter.draw(1), painter.draw(2)
    changed = second != third
    layout = painter.layout
    assert changed[TOP:, layout.left : layout.panel - PANEL_GAP].any()
    assert not changed[: TOP - 1].any()
    reading = slice(TOP + HOW_TO_READ_Y - 10, TOP + EXAMPLE_Y)
    assert not changed[reading, layout.panel :].any()
    assert changed[TOP : TOP + 40, layout.panel :].any()


def test_print_size_is_the_same_picture_larger(short_history):
    small = FramePainter(short_history, CURVE, SCALE, PALETTE, 500)
    large = FramePainter(short_history, CURVE, SCALE, PALETTE, 500, scale=2)
    levels = SCALE.levels(cosine_similarity(short_history[2].embeddings), GIF_LEVELS)
    assert large.draw(2).shape == tuple(2 * side for side in small.draw(2).shape)
    large_tiles = large.layout.tiles.draw(levels, PALETTE)
    small_tiles = small.layout.tiles.draw(levels, PALETTE)
    assert large_tiles.shape == tuple(2 * side for side in small_tiles.shape)
    maps = small_tiles < GIF_LEVELS
    np.testing.assert_array_equal(large_tiles[::2, ::2][maps], small_tiles[maps])


def test_cells_grow_with_the_picture_and_never_vanish(tmp_path):
    assert best_cell((13, 11), 514, 842) == 4
    assert best_cell((14, 14), 514, 842) == 3
    assert best_cell((13, 11), 10, 842) == 1
    assert tiles_extent(16, best_cell((16, 2), 514, 842)) <= 842
    assert best_cell((40, 40), 514, 842) == 1
    path = write_checkpoint(tmp_path / "a.safetensors", np.random.default_rng(0).standard_normal((900, 4)), 1, (30, 30))
    painter = FramePainter([read_checkpoint(path)], Curve("", "", [None], None), SCALE, PALETTE, 500)
    assert painter.layout.tiles.cell == 1
    assert painter.layout.width > 900
    assert painter.draw(0).shape == (painter.layout.height, painter.layout.width)


def gif_blocks(data):
    """What the file says, read from its bytes: loops, delays in hundredths of a second, colour tables of frames."""
    assert data[:6] == b"GIF89a"
    position = 13 + 3 * 2 ** ((data[10] & 7) + 1) * (data[10] >> 7)
    loops, delays, local_tables = None, [], []
    while data[position] != 0x3B:
        if data[position] == 0x21:
            if data[position + 1] == 0xF9:
                delays.append(int.from_bytes(data[position + 4 : position + 6], "little"))
            if data[position + 3 : position + 14] == b"NETSCAPE2.0":
                loops = int.from_bytes(data[position + 16 : position + 18], "little")
            position += 2
        else:
            local_tables.append(bool(data[position + 9] & 0x80))
            position += 11 + 3 * 2 ** ((data[position + 9] & 7) + 1) * local_tables[-1]
        while data[position]:
            position += data[position] + 1
        position += 1
    return loops, delays, local_tables


def test_sixty_frames_come_back_from_the_gif_as_they_were_drawn(tmp_path):
    history = load_history([write_run(tmp_path / "runs", num_frames=60, width=32)])
    assert len(history) == 60
    painter = FramePainter(history, Curve("Mirror", "of maps", [0.5] * 60, 0.0), SCALE, PALETTE, 842)
    frames = painter.draw_all()
    path = write_animation(frames, PALETTE, Timing(150, 2500), "gif", tmp_path / "pe_similarity")
    assert path == tmp_path / "pe_similarity.gif"
    assert path.stat().st_size <= 3_000_000
    loops, delays, local_tables = gif_blocks(path.read_bytes())
    assert loops == 0  # for ever
    assert delays == [15] * 59 + [250]
    assert local_tables == [False] * 60
    with Image.open(path) as picture:
        assert picture.n_frames == 60
        for index in range(60):
            picture.seek(index)
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), PALETTE.to_rgb(frames[index]))


def test_equal_frames_keep_their_time(tmp_path):
    frame = np.full((20, 30), PALETTE.index_of(INK), dtype=np.uint8)
    other = np.full((20, 30), 7, dtype=np.uint8)
    path = write_animation(np.stack([frame, frame, other]), PALETTE, Timing(100, 900), "gif", tmp_path / "a")
    assert gif_blocks(path.read_bytes())[1] == [20, 90]


@pytest.mark.parametrize(("asked", "hundredths"), [(25, 3), (155, 16), (44, 4), (99, 10), (20, 2), (59_999, 6000)])
def test_times_of_a_gif_are_rounded(tmp_path, asked, hundredths):
    frames = np.stack([np.full((20, 30), level, dtype=np.uint8) for level in range(3)])
    path = write_animation(frames, PALETTE, Timing(asked, asked), "gif", tmp_path / "a")
    assert gif_blocks(path.read_bytes())[1] == [hundredths] * 3


def test_webp_and_pngs_are_lossless(tmp_path):
    frames = np.random.default_rng(0).integers(0, TRANSPARENT, (3, 20, 31), dtype=np.uint8)
    path = write_animation(frames, PALETTE, Timing(100, 900), "webp", tmp_path / "a")
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.info["loop"]) == (3, 0)
        durations = []
        for index in range(3):
            picture.seek(index)
            picture.load()
            durations.append(picture.info["duration"])
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), PALETTE.to_rgb(frames[index]))
        assert durations == [100, 100, 900]
    folder = write_animation(frames, PALETTE, Timing(100, 900), "png-frames", tmp_path / "b" / "c")
    assert [file.name for file in sorted(folder.iterdir())] == ["0000.png", "0001.png", "0002.png"]
    with Image.open(folder / "0002.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), PALETTE.to_rgb(frames[2]))


def test_mp4_holds_the_last_frame(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames = np.stack([np.full((31, 33), level, dtype=np.uint8) for level in (0, 30, 60)])
    path = write_animation(frames, PALETTE, Timing(100, 400), "mp4", tmp_path / "a")
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.check_output([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, *raw])
    video = np.frombuffer(data, np.uint8).reshape(-1, 32, 34, 3)  # both sides even
    assert len(video) == 6
    expected = PALETTE.to_rgb(np.array([0, 30, 60, 60, 60, 60], dtype=np.uint8)).astype(int)
    assert np.abs(video[:, 16, 16] - expected).max() < 12


@pytest.mark.parametrize("kind", ["package", "program"])
def test_mp4_without_an_encoder_says_what_to_install(tmp_path, monkeypatch, kind):
    if kind == "package":
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    else:
        imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")

        def none_found() -> str:
            raise RuntimeError("No ffmpeg exe could be found")

        monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none_found)
    with pytest.raises(VitpeError, match="mp4 needs imageio-ffmpeg") as error:
        write_animation(np.zeros((2, 8, 8), np.uint8), PALETTE, Timing(100, 400), "mp4", tmp_path / "a")
    assert "vitpe[video]" in error.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [1, 2])
def test_the_explained_picture_shows_all_maps_and_those_of_eye_and_border(short_history, scale):
    checkpoint = short_history[2]
    pixels = explained_picture(checkpoint, SCALE, PALETTE, scale)
    levels = SCALE.levels(cosine_similarity(checkpoint.embeddings), GIF_LEVELS)

    def share_shown(tiles, x, y):
        expected = PALETTE.to_rgb(tiles.draw(levels, PALETTE))
        found = pixels[y * scale :, x * scale :][: expected.shape[0], : expected.shape[1]]
        return (found == expected).all(axis=2).mean()

    right = pixels.shape[1] // scale - explained.MARGIN - explained.SIDE_WIDTH
    middle = explained.MARGIN + explained.SIDE_WIDTH
    # The rest is below arrows, frames and words.
    assert share_shown(lay_out_tiles(GRID, 3, scale), middle + explained.ARROW_GAP, explained.TOP) > 0.97
    assert share_shown(lay_out_map(GRID, (6, 3), 22 * scale), middle - 242, explained.MAP_TOP) > 0.95
    assert share_shown(lay_out_map(GRID, (6, 10), 22 * scale), right, explained.MAP_TOP) > 0.85
    assert share_shown(lay_out_map(GRID, (6, 4), 22 * scale), middle - 242, explained.MAP_TOP) < 0.5


def callouts(tmp_path, embeddings, **fields):
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "a.safetensors", embeddings, 1, **fields))
    similarity = cosine_similarity(checkpoint.embeddings)
    return explained.inner_callout(checkpoint, similarity), explained.border_callout(checkpoint, similarity)


def test_the_explained_picture_says_what_is_measured(tmp_path):
    embeddings = np.random.default_rng(0).standard_normal((143, 64))
    embeddings[6 * 11 + 7] = embeddings[6 * 11 + 3] + 0.01
    embeddings[10] = embeddings[6 * 11 + 10]  # a corner
    eye, border = callouts(tmp_path, embeddings)
    assert (eye.patch, eye.heading) == ((6, 3), "A patch at the left eye")
    assert "row 6, column 7, on the right eye: 1.00" in eye.text
    assert eye.outlined == ((6, 6, 7, 8),)
    similarity = torch_free_mean(embeddings, (6, 3), [(6, 6), (6, 7)])
    assert eye.outlined_text == f"the right eye: mean {similarity:.2f}"
    ring = [(r, c) for r, c in np.ndindex(GRID) if r in (0, 12) or c in (0, 10)]
    ring.remove((6, 10))
    assert border.patch == (6, 10)
    assert border.outlined_text == f"the border: mean {torch_free_mean(embeddings, (6, 10), ring):.2f}"
    embeddings[0] = embeddings[6 * 11 + 3] * 2
    assert "row 0, column 0, not on the right eye" in callouts(tmp_path, embeddings)[0].text


def torch_free_mean(embeddings, patch, others):
    """The mean cosine of one patch to others, from the definition."""
    one = embeddings[patch[0] * 11 + patch[1]]
    rest = [embeddings[row * 11 + column] for row, column in others]
    return np.mean([one @ other / np.sqrt((one @ one) * (other @ other)) for other in rest])


def test_without_a_face_the_opposite_patch_is_framed_and_zero_is_undefined(tmp_path):
    inner, _ = callouts(tmp_path, face_embeddings(0.5), data_source="labelled_csv")
    assert (inner.patch, inner.outlined) == ((6, 2), ((6, 8, 7, 9),))
    assert "eye" not in inner.heading + inner.text
    for callout in callouts(tmp_path, np.zeros((143, 4))):
        assert "undefined: the embeddings start at zero" in callout.text
        assert "undefined" in callout.outlined_text


@pytest.mark.parametrize("filters", [None, (16, 3, 16, 16), (16, 1, 4, 4), (16, 5, 4, 4)])
def test_the_components_picture_takes_any_filters(tmp_path, filters):
    path, generator = tmp_path / "a.safetensors", np.random.default_rng(0)
    values = None if filters is None else generator.standard_normal(filters)
    for embeddings in (face_embeddings(1.0, width=16), np.zeros((143, 16))):
        write_checkpoint(path, embeddings, 1, filters=values)
        pixels = components_picture(read_checkpoint(path), PALETTE, 1)
        assert pixels.dtype == np.uint8
        panel = pixels[118:430, 652:].reshape(-1, 3).astype(int)  # right of two maps of 11 columns of 24 pixels
        colourful = (panel.max(axis=1) - panel.min(axis=1) > 40).mean()
        inked = (panel.min(axis=1) < 220).mean()
        assert (colourful > 0.3) == (filters is not None and filters[1] == 3)
        assert (inked > 0.3) == (filters is not None and filters[1] in (1, 3))


def test_one_checkpoint_has_no_curve(short_history):
    """Nothing is drawn below its heading and what random embeddings have."""

    def below(history):
        curve = Curve("Mirror symmetry", "of maps", [0.9] * len(history), 0.0)
        painter = FramePainter(history, curve, SCALE, PALETTE, 842)
        pixels = painter.draw(len(history) - 1)[TOP + CURVE_Y + 46 :, painter.layout.panel :]
        return pixels != PALETTE.index_of(BACKGROUND)

    assert not below(short_history[-1:]).any()
    assert below(short_history).any()
