"""flowlab.learn"""
