"""flowlab.config"""
