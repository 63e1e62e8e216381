"""placeholder"""
class QualityReport: pass
def quality(d): pass
