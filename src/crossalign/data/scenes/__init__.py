"""Synthetic scenes: pictures of coloured shapes with captions in which it is known what each word means."""

from __future__ import annotations

from crossalign.data.scenes.drawing import draw_scene
from crossalign.data.scenes.make import make_scenes
from crossalign.data.scenes.truth import SceneTruth, WordTruth, oracle_recall
from crossalign.data.scenes.world import Scene, SceneObject

__all__ = ["Scene", "SceneObject", "SceneTruth", "WordTruth", "draw_scene", "make_scenes", "oracle_recall"]
