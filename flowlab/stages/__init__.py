"""flowlab.stages"""
