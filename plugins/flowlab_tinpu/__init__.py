"""flowlab_tinpu"""
