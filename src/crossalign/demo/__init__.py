"""The whole of crossalign on synthetic scenes, in one call."""

from crossalign.demo.run import DemoOutcome, run_demo

__all__ = ["DemoOutcome", "run_demo"]
