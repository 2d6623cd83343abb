"""flowlab.store"""
