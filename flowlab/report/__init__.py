"""flowlab.report"""
