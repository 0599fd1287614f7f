package test

import "time"

const limitOfVisit = 3 * time.Minute
