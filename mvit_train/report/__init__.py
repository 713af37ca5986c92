"""Predictions of an evaluation -> metrics.json -> one self-contained report.html.

predictions.save_predictions -> predictions.npz -> write_metrics -> metrics.json -> write_report -> report.html
"""

from mvit_train.report.metrics_file import write_metrics
from mvit_train.report.page import write_report

__all__ = ["write_metrics", "write_report"]
