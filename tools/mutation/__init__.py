"""Mutation testing: does a test notice when a condition, a sign or a fence is broken? (``docs/mutants.md``)"""
