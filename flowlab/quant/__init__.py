"""flowlab.quant"""
