"""flowlab.signal"""
