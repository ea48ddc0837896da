"""Indexes over item vectors: one protocol, and exact search, FAISS, LanceDB, Qdrant or Milvus behind it."""

from mmrec.index.build import BACKENDS, build_index, load_index, measure_recall
from mmrec.index.protocol import Found, Index

__all__ = ["BACKENDS", "Found", "Index", "build_index", "load_index", "measure_recall"]
