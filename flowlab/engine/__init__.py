"""flowlab.engine"""
