"""The image plane as a newcomer needs it: cut into patches, with a face sketched where the eyes are known to be."""

import numpy as np

from vitpe.viz.colours import CELL, FAINT, MUTED
from vitpe.viz.face import FaceGeometry
from vitpe.viz.sheet import Sheet


def draw_image_plane(
    sheet: Sheet, x: float, y: float, grid_size: tuple[int, int], cell: float, face: FaceGeometry | None
) -> None:
    """Draw the grid of patches with its top left corner at (x, y); `cell` is a patch's side in pixels."""
    num_rows, num_columns = grid_size
    height, width = num_rows * cell, num_columns * cell
    sheet.rectangle(x, y, width, height, fill=CELL)
    for row in range(num_rows + 1):
        sheet.line([x, x + width], [y + row * cell] * 2, FAINT, 0.8)
    for column in range(num_columns + 1):
        sheet.line([x + column * cell] * 2, [y, y + height], FAINT, 0.8)
    if face is not None:
        _draw_face(sheet, x, y, cell, face)


def _draw_face(sheet: Sheet, x: float, y: float, cell: float, face: FaceGeometry) -> None:
    """A line drawing in units of the distance between the eyes; only the eyes' places are data."""
    eye_y = y + face.left_eye_centre[0] * cell
    left_x, right_x = (x + centre[1] * cell for centre in (face.left_eye_centre, face.right_eye_centre))
    middle, unit = (left_x + right_x) / 2, right_x - left_x
    line = max(1.0, cell / 9)
    sheet.ellipse(middle, eye_y + 0.30 * unit, 2.55 * unit, 3.45 * unit, MUTED, line)
    for eye_x in (left_x, right_x):
        sheet.ellipse(eye_x, eye_y, 0.48 * unit, 0.22 * unit, MUTED, line)
        sheet.ellipse(eye_x, eye_y, 0.12 * unit, 0.14 * unit, MUTED, line)
    nose = np.array([[-0.05, 0.15], [-0.17, 0.62], [0.0, 0.7], [0.17, 0.62]])
    sheet.line(middle + unit * nose[:, 0], eye_y + unit * nose[:, 1], MUTED, line, solid_joinstyle="round")
    angle = np.linspace(0, np.pi, 24)
    sheet.line(middle + 0.46 * unit * np.cos(angle), eye_y + unit * (1.02 + 0.16 * np.sin(angle)), MUTED, line)
