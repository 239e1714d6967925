"""Stages that look and write nothing: what is wrong with the input, how one record is seen, what a run has done."""
