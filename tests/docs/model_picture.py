"""assets/model_summary.png: the model as it is built, every number on it taken from a real model and its tensors."""

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitpe.config import ModelConfig
from vitpe.data.drawn_faces import DrawnFaces
from vitpe.model.vit import VisionTransformer, num_parameters
from vitpe.viz.colours import ACCENT, BACKGROUND, CELL, INK, MUTED, Pixels
from vitpe.viz.face import face_geometry
from vitpe.viz.sheet import Sheet

SCALE = 2
WIDTH, MARGIN = 1080, 32
FACE = 9  # which of the drawn faces

TOP = 152  # of the first row
PATCH_SIDE, PATCH_GAP = 17, 3  # a patch in the image, and the gap between patches pulled apart
STRIP = (160, 16)  # width and height of a token, one colour for each of its numbers
TOKENS_X = 622

BLOCK_TOP = 556
BLOCK_HEIGHT = 158
BOX_HEIGHT = 76
ANSWERS_X = 786
LINE = 1.6
FAR = "#b8bec9"
TINTS = {"norm": "#e9ebf0", "attention": "#dbe9f6", "mlp": "#fbe6d4", "head": "#dff0e0", "class": "#dff0e0"}


@dataclass(frozen=True)
class Pass:
    """One face on its way through an untrained model, without the dimension of the batch."""

    model: VisionTransformer
    portrait: Pixels  # (H, W, 3)
    answers: list[tuple[str, bool]]  # an attribute and whether the face was drawn with it
    images: Tensor  # (C, H, W)
    patches: Tensor  # (N, C·P·P)
    projected: Tensor  # (N, D)
    tokens: Tensor  # (1+N, D)
    encoded: Tensor  # (1+N, D)
    logits: Tensor  # (A,)


def pass_through(config: ModelConfig) -> Pass:
    """Draw a face, cut the model's size out of its middle, and run the model on it."""
    faces = DrawnFaces("train", FACE + 1)
    whole = faces.read([FACE])[0]
    top, left = ((stored - size) // 2 for stored, size in zip(whole.shape[1:], config.img_size, strict=True))
    cut = whole[:, top : top + config.img_size[0], left : left + config.img_size[1]]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = VisionTransformer(config).eval()
        images = torch.from_numpy(cut.copy()).float()[None] / 127.5 - 1
        patches = model.patchify(images)
        return Pass(
            model,
            cut.transpose(1, 2, 0),
            [(name, bool(label)) for name, label in zip(faces.attributes, faces.labels[FACE], strict=True)],
            images[0],
            patches[0],
            model.patch_embed(patches)[0],
            model.embed(images)[0],
            model.forward_features(images)[0],
            model(images)[0],
        )


def model_picture(name: str, config: ModelConfig) -> Pixels:
    """The picture of a preset, RGB."""
    seen = pass_through(config)
    sheet = Sheet(WIDTH, BLOCK_TOP + BLOCK_HEIGHT + 128, SCALE)
    facts = [f"the preset {name}", f"{num_parameters(seen.model):,} parameters", "arXiv:2010.11929"]
    sheet.text(MARGIN, 46, f"From a face to {len(seen.logits)} answers", 24, weight="bold")
    sheet.text(MARGIN, 72, " · ".join(facts), 14.5, MUTED)
    _draw_patches(sheet, config, seen)
    _draw_encoder(sheet, config, seen)
    return sheet.pixels()


def shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def _title(sheet: Sheet, x: float, y: float, title: str, text: str) -> None:
    sheet.text(x, y - 34, title, 15, weight="bold")
    sheet.text(x, y - 15, text, 12.5, MUTED)


def _draw_patches(sheet: Sheet, config: ModelConfig, seen: Pass) -> None:
    """The first row: image → patches → tokens."""
    num_rows, num_columns = config.grid_size
    side, step = PATCH_SIDE, PATCH_SIDE + PATCH_GAP
    size = (num_columns * side * SCALE, num_rows * side * SCALE)
    large = np.asarray(Image.fromarray(seen.portrait).resize(size, Image.Resampling.LANCZOS))
    cells = large.reshape(num_rows, side * SCALE, num_columns, side * SCALE, 3).swapaxes(1, 2)
    face = face_geometry(config.img_size, config.patch_size)
    assert face is not None
    eye = face.outer_left_eye
    middle = TOP + num_rows * step / 2

    _title(sheet, MARGIN, TOP, "Image", shape(seen.images))
    y = middle - num_rows * side / 2
    sheet.picture(large, MARGIN, y)
    _frame(sheet, MARGIN, y, eye, side)

    patches_x = MARGIN + num_columns * side + 72
    _arrow(sheet, MARGIN + num_columns * side + 12, patches_x - 12, middle, "cut")
    p = config.patch_size
    _title(
        sheet,
        patches_x,
        TOP,
        f"{len(seen.patches)} patches",
        f"{num_rows} rows × {num_columns} columns of {p} × {p} pixels",
    )
    for row in range(num_rows):
        for column in range(num_columns):
            sheet.picture(cells[row, column], patches_x + column * step, TOP + row * step)
    _frame(sheet, patches_x, TOP, eye, step, side)

    _arrow(sheet, patches_x + num_columns * step + 9, TOKENS_X - 12, middle, "project")
    weight = seen.model.patch_embed.proj.weight.flatten(1)
    sheet.text(
        (patches_x + num_columns * step + TOKENS_X) / 2 - 2,
        middle + 22,
        f"{weight.shape[1]} → {weight.shape[0]}",
        11.5,
        MUTED,
        align="center",
    )
    _draw_tokens(sheet, seen, cells.reshape(-1, *cells.shape[2:]), eye[0] * num_columns + eye[1])


def _draw_tokens(sheet: Sheet, seen: Pass, cells: Pixels, chosen: int) -> None:
    """The class token and some patches: a strip of what each is plus a strip for where it lies."""
    width, height = STRIP
    num_patches, embed_dim = seen.projected.shape
    _title(sheet, TOKENS_X, TOP, f"{len(seen.tokens)} tokens", f"{shape(seen.tokens)}: {embed_dim} numbers each")
    what_x, where_x = TOKENS_X + 30, TOKENS_X + 30 + width + 34
    sheet.text(what_x, TOP + 22, "what is seen", 12.5, INK)
    sheet.text(where_x, TOP + 22, "position embedding", 12.5, ACCENT)
    rows = [None, 0, 1, "⋮", chosen - 1, chosen, chosen + 1, "⋮", num_patches - 1]
    scale = float(seen.projected.abs().max())
    y = TOP + 34
    for row in rows:
        if isinstance(row, str):
            for x in (TOKENS_X + PATCH_SIDE / 2, what_x + width / 2, where_x + width / 2):
                for dot in range(3):
                    sheet.line([x], [y + 1 + 5 * dot], MUTED, 0, marker="o", markersize=2)
            y += 22
            continue
        if row is None:
            sheet.text(TOKENS_X + PATCH_SIDE / 2, y + 13, "class", 9.5, MUTED, align="center")
            values, name = torch.zeros(embed_dim), "the class token, learned"
            sheet.rectangle(what_x, y, width, height, fill=TINTS["head"])
            sheet.text(what_x + width / 2, y + 12, name, 10.5, INK, align="center")
        else:
            sheet.picture(cells[row], TOKENS_X, y)
            if row == chosen:
                sheet.rectangle(TOKENS_X, y, PATCH_SIDE, PATCH_SIDE, edge=ACCENT, line=2)
            values = seen.projected[row]
            sheet.picture(_strip(values, scale), what_x, y)
        sheet.text(what_x + width + 17, y + 13, "+", 15, MUTED, align="center")
        sheet.rectangle(where_x, y, width, height, fill=CELL)
        sheet.text(where_x + width / 2, y + 12, "0 0 0 0 … 0", 10.5, MUTED, align="center")
        sheet.text(where_x + width + 8, y + 12, "0" if row is None else str(row + 1), 10, MUTED)
        y += 26
    sheet.paragraph(
        TOKENS_X,
        y + 20,
        WIDTH - MARGIN - TOKENS_X,
        f"Position embeddings {shape(seen.model.pos_embed[0])} start at zero: nobody tells the model where a patch"
        " lies. All they hold later was learned.",
        12.5,
        ACCENT,
    )


def _strip(values: Tensor, scale: float) -> Pixels:
    """The numbers of a token from left to right as colours."""
    width, height = STRIP
    places = np.arange(width * SCALE) * len(values) // (width * SCALE)
    shares = (values.numpy()[places] / scale + 1) / 2
    colours = np.rint(mpl.colormaps["viridis"](shares)[:, :3] * 255).astype(np.uint8)
    return np.broadcast_to(colours, (height * SCALE, *colours.shape))


def _draw_encoder(sheet: Sheet, config: ModelConfig, seen: Pass) -> None:
    """The second row: the blocks, the class token's way out, and the answers."""
    attention, mlp, depth = seen.model.blocks[0].attn, seen.model.blocks[0].mlp, len(seen.model.blocks)
    left, width = MARGIN + 24, 448
    _title(sheet, MARGIN, BLOCK_TOP, f"{depth} encoder blocks", f"tokens {shape(seen.encoded)} in and out of each")
    behind = min(depth, 5) - 1
    for back in range(behind, -1, -1):
        edge = INK if back == 0 else FAR
        x, y = left + 5 * back, BLOCK_TOP - 5 * back + 5 * behind
        sheet.rectangle(x, y, width, BLOCK_HEIGHT, fill=BACKGROUND, edge=edge, line=1.3)
    middle = BLOCK_TOP + 5 * behind + BLOCK_HEIGHT / 2 + 9

    heads, head_width = attention.num_heads, attention.proj.in_features // attention.num_heads
    parts = [
        ("norm", 48, ["Layer", "norm"]),
        ("attention", 100, ["Attention", f"{heads} heads", f"of {head_width}"]),
        ("sum", 20, []),
        ("norm", 48, ["Layer", "norm"]),
        ("mlp", 100, ["MLP, GELU", f"{mlp.fc1.in_features} → {mlp.fc1.out_features}", f"→ {mlp.fc2.out_features}"]),
        ("sum", 20, []),
    ]
    x, gap, fork = left + 24, 14, left + 11
    sheet.line([MARGIN, left + width + 50], [middle, middle], INK, LINE)
    for kind, part_width, lines in parts:
        if kind == "sum":
            centre, over = x + part_width / 2, middle - BOX_HEIGHT / 2 - 16
            sheet.line([fork, fork, centre, centre], [middle, over, over, middle], INK, LINE, solid_joinstyle="round")
            sheet.ellipse(centre, middle, part_width, part_width, INK, 1.3, fill=BACKGROUND)
            sheet.text(centre, middle + 5.5, "+", 16, align="center")
            fork = x + part_width + gap / 2
        else:
            _box(sheet, x, middle, part_width, kind, lines)
        x += part_width + gap

    x = left + width + 44
    for kind, part_width, lines in (
        ("class", 52, ["class", "token", f"({seen.encoded.shape[1]})"]),
        ("norm", 48, ["Layer", "norm"]),
        ("head", 56, ["Linear", f"{seen.model.head.in_features}", f"→ {seen.model.head.out_features}"]),
    ):
        sheet.line([x - 14, x], [middle, middle], INK, LINE)
        _box(sheet, x, middle, part_width, kind, lines)
        x += part_width + 14
    sheet.arrow((x - 14, middle), (ANSWERS_X - 8, middle), INK)
    _draw_answers(sheet, seen)
    text = f"Attention lets every token ask all {len(seen.tokens)}. At the end only the class token is read."
    sheet.paragraph(left, BLOCK_TOP + BLOCK_HEIGHT + 5 * behind + 30, 640, text, 12.5, MUTED)


def _draw_answers(sheet: Sheet, seen: Pass) -> None:
    text = "in bold: what this face was drawn with"
    _title(sheet, ANSWERS_X, BLOCK_TOP, f"{len(seen.logits)} logits", text)
    num_rows = -(-len(seen.answers) // 2)
    for index, (name, present) in enumerate(seen.answers):
        column, row = divmod(index, num_rows)
        x, y = ANSWERS_X + column * 136, BLOCK_TOP + 8 + row * 12.6
        weight, colour = ("bold", INK) if present else ("normal", MUTED)
        sheet.text(x, y, name.replace("_", " "), 10, colour, weight)


def _box(sheet: Sheet, x: float, middle: float, width: float, kind: str, lines: list[str]) -> None:
    sheet.rectangle(x, middle - BOX_HEIGHT / 2, width, BOX_HEIGHT, fill=TINTS[kind], edge=FAR)
    for number, line in enumerate(lines):
        size, colour, weight = (12, INK, "bold") if number == 0 and kind != "norm" else (11.5, INK, "normal")
        y = middle + 4 + (number - (len(lines) - 1) / 2) * 17
        sheet.text(x + width / 2, y, line, size, colour, weight, align="center")


def _arrow(sheet: Sheet, start: float, end: float, y: float, text: str) -> None:
    sheet.arrow((start, y), (end, y), INK)
    sheet.text((start + end) / 2 - 2, y - 9, text, 12.5, INK, align="center")


def _frame(sheet: Sheet, x: float, y: float, patch: tuple[int, int], step: float, side: float | None = None) -> None:
    """A frame around one patch of a picture at (x, y)."""
    side = side or step
    sheet.rectangle(x + patch[1] * step, y + patch[0] * step, side, side, edge=ACCENT, line=2)
