"""Uni-modal teachers: frozen networks that say how alike images are, or texts, stored once as features."""

from __future__ import annotations

from crossalign.teachers.image import ImageTeacher, ImageTeacherConfig, image_teacher
from crossalign.teachers.published import read_published
from crossalign.teachers.teach import Teaching, teach_images, teach_published, teach_texts
from crossalign.teachers.text import TextTeacher, TextTeacherConfig, text_teacher

__all__ = [
    "ImageTeacher",
    "ImageTeacherConfig",
    "Teaching",
    "TextTeacher",
    "TextTeacherConfig",
    "image_teacher",
    "read_published",
    "teach_images",
    "teach_published",
    "teach_texts",
    "text_teacher",
]
