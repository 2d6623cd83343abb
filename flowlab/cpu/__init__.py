"""flowlab.cpu"""
