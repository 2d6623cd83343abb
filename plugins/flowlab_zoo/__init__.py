"""flowlab_zoo"""
