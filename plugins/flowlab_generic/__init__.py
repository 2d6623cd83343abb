"""flowlab_generic"""
