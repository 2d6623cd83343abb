"""flowlab_signal"""
