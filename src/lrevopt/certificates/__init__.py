"""Fixed points with a proof: where exactly one lies, whether it attracts, and from how far."""

from lrevopt.certificates.certify import Certificates as Certificates
from lrevopt.certificates.certify import certificate_lines as certificate_lines
from lrevopt.certificates.certify import certify as certify
