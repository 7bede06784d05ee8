# SPDX-License-Identifier: Apache-2.0

EXTRA_DIST += conf/examples/saltmere.txt
