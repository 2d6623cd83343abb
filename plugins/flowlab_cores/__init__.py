"""flowlab_cores"""
