"""Adapters and models as files, made without loading a model: start, export, merge and extract."""

from ailora.offline.export import ExportReport, export_adapter
from ailora.offline.extract import ExtractReport, extract_adapter
from ailora.offline.init_plan import InitPlan, plan_files
from ailora.offline.initialize import InitReport, init_files
from ailora.offline.merge import MergeReport, merge_adapter

__all__ = [
    "ExportReport",
    "ExtractReport",
    "InitPlan",
    "InitReport",
    "MergeReport",
    "export_adapter",
    "extract_adapter",
    "init_files",
    "merge_adapter",
    "plan_files",
]
